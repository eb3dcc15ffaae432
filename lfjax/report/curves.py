"""Plots of a report, as SVG that stands in the page: text is text, and colours are the page's, so
that they follow its light and its dark scheme."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from markupsafe import Markup

from lfjax.report.tables import Interval
from lfjax.report.workdir import StageFiles, Workdir, read_jsonl

HELDOUT = "heldout/"
POINTS = 200  # of a line at most; more steps are averaged
TOGETHER = 6  # stages in one plot at most: as many colours as can be told apart
FEW = 6  # plots that are shown without being asked for

# What is shown first where a method logs it, and what it says.
MEANING = {
    "loss": "what is minimised",
    "reward": "mean reward of a rollout, penalties included",
    "kl_k1": "nats of a whole response by which the policy has left its reference",
    "monitor": "mean opinion of who is not learned from",
    "agreement": "share of pairs of rollouts that reward and monitor order alike",
    "gap_better": "share of rollouts that the gap reward puts among better responses",
    "copied": "share of rollouts that are the response they should improve",
    "length": "mean tokens of a rollout",
    "antisymmetry": "correlation of gaps with minus the gaps the other way round; 1 is consistent",
    "unique": "different rollouts of a prompt over all of them",
    "rouge_l": "F1 of the words that rollouts and what they improve have in common, in order",
    "gap_length": "correlation of gaps with how much longer rollouts are than what they improve",
    "blamed": "share of tokens of flawed responses that are blamed",
    "p_blamed": "mean probability of a blamed token",
    "p_unblamed": "mean probability of the other tokens",
    "accuracy": "share of pairs whose better side is preferred",
    "margin": "mean difference of the two rewards",
    "logp_chosen": "mean log-probability of the better side",
    "logp_rejected": "mean log-probability of the worse side",
    "nll": "−log p of a supervised token",
    "nll_judged": "−log p of a flawed response's token, its judgment shown",
    "nll_satisfactory": "−log p of a satisfactory response's token",
}
# Say where a step stands, not how it went.
CLOCKS = ("step", "examples", "tokens", "seconds", "model_flops")

# Drawn in colours that nothing else has, which are then put in the page's words.
INK, GRID = "#0b0b0b", "#0c0c0c"
PAINT = {INK: "currentColor", GRID: "var(--line)"}
PAINT |= {f"#0d0d{k:02x}": f"var(--s{k})" for k in range(TOGETHER)}
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are text, whatever signs they have
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "grid.color": GRID,
    **{key: INK for key in ("text.color", "axes.edgecolor", "axes.labelcolor")},
    **{key: INK for key in ("xtick.color", "ytick.color")},
}


@dataclass(frozen=True)
class Plot:
    """One picture, and what it shows."""

    name: str
    meaning: str
    svg: Markup


@dataclass(frozen=True)
class Curves:
    """The plots of stages that were trained with one method; the k-th stage has the k-th colour."""

    method: str
    stages: tuple[str, ...]
    heldout: bool
    mean_of: int  # steps that a point is the mean of, at most
    first: list[Plot] = field(default_factory=list)
    others: list[Plot] = field(default_factory=list)


def learning_curves(workdir: Workdir) -> list[Curves]:
    """Every logged metric of every training stage, by method."""
    logs = [(s, _log(s, workdir.notices)) for s in workdir.of_kind("train", "rl")]
    logs = sorted((x for x in logs if x[1]), key=lambda x: x[0].what)
    out = []
    for _, same in groupby(logs, key=lambda x: x[0].what):
        same = list(same)
        out += [_curves(same[i : i + TOGETHER]) for i in range(0, len(same), TOGETHER)]
    return out


def _log(stage: StageFiles, notices: list[str]) -> list[dict[str, Any]]:
    """Its metrics, a dict a step."""
    rows = [row for _, row in read_jsonl(stage.folder / "metrics.jsonl", notices)]
    return [r for r in rows if isinstance(r.get("step"), int)]


def _curves(logs: Sequence[tuple[StageFiles, list[dict[str, Any]]]]) -> Curves:
    names = {key.removeprefix(HELDOUT): None for _, log in logs for row in log for key in row}
    names = [n for n in names if n not in CLOCKS]
    longest = max(len(log) for _, log in logs)
    curves = Curves(
        method=str(logs[0][0].config.get("method") or logs[0][0].kind),
        stages=tuple(stage.name for stage, _ in logs),
        heldout=any(key.startswith(HELDOUT) for _, log in logs for row in log for key in row),
        mean_of=math.ceil(longest / POINTS),
    )
    known, loss = list(MEANING), None
    for name in sorted(names, key=lambda n: known.index(n) if n in known else len(known)):
        lines = [
            (_series(log, name, POINTS), _series(log, HELDOUT + name, POINTS)) for _, log in logs
        ]
        values = {y for pair in lines for _, ys in pair for y in ys}
        if not values:
            continue
        loss = lines if name == "loss" else loss
        plot = Plot(name, MEANING.get(name, ""), _line_plot(name, lines))
        # What never changes, and a loss under another name, can wait.
        new = len(values) > 1 and not (lines == loss and name != "loss")
        few = name in MEANING and new and len(curves.first) < FEW
        (curves.first if few else curves.others).append(plot)
    return curves


def _series(log: list[dict[str, Any]], name: str, points: int) -> tuple[list, list]:
    """(steps, values) of a metric where it is a finite number; means over equal parts where there
    are more than `points`."""
    pairs = [(row["step"], row[name]) for row in log if _finite(row.get(name))]
    size = max(1, math.ceil(len(pairs) / points))
    parts = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return (
        [sum(x for x, _ in part) / len(part) for part in parts],
        [sum(y for _, y in part) / len(part) for part in parts],
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _line_plot(name: str, lines) -> Markup:
    """Training as a line, what is held out as points, a colour per stage."""
    figure, axes = _figure(4.0, 2.3)
    for k, ((x, y), (held_x, held_y)) in enumerate(lines):
        colour = f"#0d0d{k:02x}"
        axes.plot(x, y, color=colour, linewidth=1.3, marker="." if len(x) == 1 else None)
        axes.plot(held_x, held_y, "--o", color=colour, linewidth=1, markersize=4)
    axes.set_xlabel("step")
    return _svg(figure, f"{name} by step")


def box_plot(lengths: dict[str, list[int]], unit: str) -> Markup:
    """A row per system: median, quartiles, whiskers from the 5th to the 95th percentile, and the
    mean as a point."""
    names = list(lengths)[::-1]
    figure, axes = _figure(4.4, 0.6 + 0.26 * len(names))
    line = {"color": INK, "linewidth": 1}
    axes.boxplot(
        [lengths[n] for n in names],
        orientation="horizontal",
        tick_labels=list(map(_label, names)),
        whis=(5, 95),
        widths=0.55,
        showfliers=False,
        showmeans=True,
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={"color": "#0d0d00", "linewidth": 2},
        meanprops={"marker": "o", "markersize": 4, "mfc": "#0d0d01", "mec": "none"},
    )
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    return _svg(figure, f"{unit} by system")


def forest_plot(names: Sequence[str], intervals: Sequence[Interval], margins: Sequence) -> Markup:
    """A row per claim: estimate, interval, and the margin that it is held against."""
    figure, axes = _figure(4.4, 0.6 + 0.26 * len(names))
    for i, (interval, margin) in enumerate(zip(intervals, margins)):
        axes.plot([interval.low, interval.high], [i, i], color="#0d0d00", linewidth=2)
        if interval.estimate is not None:
            axes.plot([interval.estimate], [i], "o", color="#0d0d00", markersize=5)
        if _finite(margin):
            axes.plot([margin, margin], [i - 0.35, i + 0.35], color="#0d0d01", linewidth=2)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), list(map(_label, names)))
    axes.invert_yaxis()
    axes.set_xlabel("estimate")
    axes.grid(axis="y", visible=False)
    return _svg(figure, "estimates of the claims")


def stacked_plot(bars: dict[str, dict[str, int]], first: str, label: str) -> Markup:
    """A row per name, made of its parts: `first`, then the largest others; the smallest are one."""
    figure, axes = _figure(5.2, 0.9 + 0.3 * len(bars))
    totals: dict[str, int] = {}
    for parts in bars.values():
        for part, n in parts.items():
            totals[part] = totals.get(part, 0) + n
    others = sorted((p for p in totals if p != first), key=lambda p: -totals[p])
    shown = [first, *others[: TOGETHER - 2]]
    left = [0] * len(bars)
    for k, part in enumerate([*shown, "other reasons"]):
        rest = [p for p in others if p not in shown] if k == len(shown) else [part]
        widths = [sum(parts.get(p, 0) for p in rest) for parts in bars.values()]
        if any(widths):
            colour = f"#0d0d{k:02x}"
            axes.barh(range(len(bars)), widths, left=left, color=colour, label=_label(part))
        left = [a + b for a, b in zip(left, widths)]
    axes.set_yticks(range(len(bars)), list(map(_label, bars)))
    axes.invert_yaxis()
    axes.set_xlabel("records")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _svg(figure, label)


def bar_plot(bars: dict[str, list[int]], at: list[int], unit: str, label: str) -> Markup:
    """Counts at the same places, a colour per name."""
    figure, axes = _figure(4.4, 2.3)
    width = 0.8 / max(len(bars), 1)
    for k, (name, counts) in enumerate(bars.items()):
        places = [x + (k - (len(bars) - 1) / 2) * width for x, _ in zip(at, counts)]
        axes.bar(places, counts, width=width, color=f"#0d0d{k:02x}", label=_label(name))
    axes.set_xticks(at)
    axes.set_xlabel(unit)
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return _svg(figure, label)


def _label(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"


def _figure(width: float, height: float):
    """A figure of its own, in inches, which no global state knows of."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def _svg(figure, label: str) -> Markup:
    """The figure as an element of a page, as wide as there is room."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": label}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # Its style would apply to the whole page, and its fonts are the page's.
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]*;", "", text).replace("xlink:href", "href")
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda m: PAINT.get(m[0], m[0]), text)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{Markup.escape(label)}">'
    return Markup(head + text[text.index(">") + 1 :])
