"""What became of records on their way through stages that judge and filter them, and how a model
scores itself."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lfjax.evaluation.self_bias import SCORES
from lfjax.report.curves import bar_plot, stacked_plot
from lfjax.report.results import to_table
from lfjax.report.tables import Table
from lfjax.report.workdir import StageFiles, Workdir, read_json, read_jsonl

KINDS = ("generate", "judge", "filter")
KEPT = "kept"


@dataclass(frozen=True)
class Funnel:
    """A chain of stages: a bar for each, and why records went."""

    name: str
    plot: Markup
    table: Table


def funnels(workdir: Workdir) -> list[Funnel]:
    """A funnel for every chain of finished stages that ends with a filter and has a judge in it."""
    stages = {s.name: s for s in workdir.of_kind(*KINDS) if s.state == "finished"}
    out = []
    for last in stages.values():
        chain = _chain(last, stages)
        if last.kind != "filter" or not any(s.kind == "judge" for s in chain):
            continue
        steps = {s.name: counts_of(s, workdir.notices) for s in chain}
        rows = [
            {"stage": name, "what": what, "records": n, "share": n / max(sum(c.values()), 1)}
            for name, c in steps.items()
            for what, n in c.items()
        ]
        plot = stacked_plot(steps, KEPT, f"what became of the records of {last.name}")
        out.append(Funnel(last.name, plot, to_table(f"funnel-{last.name}", last.name, rows)))
    return out


def _chain(last: StageFiles, stages: dict[str, StageFiles]) -> list[StageFiles]:
    """The stages whose records a stage reads, one after the other, the first one first."""
    chain = [last]
    while (before := stages.get(chain[0].reads.get("data", ""))) and before not in chain:
        chain.insert(0, before)
    return chain


def counts_of(stage: StageFiles, notices: list[str]) -> Counter:
    """Of the records that a stage read, how many it kept, and how many it left out for what."""
    found = {k: v for k, v in stage.part("headline").items() if isinstance(v, int)}
    if stage.kind == "filter":
        return Counter({KEPT: found.pop("records", 0), **found})
    if stage.kind == "generate":
        lost = found.get("missing", 0)
        return Counter({KEPT: found.get("records", 0)} | ({"no answer": lost} if lost else {}))
    missing = (row for _, row in read_jsonl(stage.folder / "missing.jsonl", notices))
    reasons = Counter(_reason(row) for row in missing)
    return Counter({KEPT: found.get("judged", 0)}) + reasons


def _reason(row: dict[str, Any]) -> str:
    note = (row.get("meta") or {}).get("not_judged") or {}
    return str(note.get("reason", "not judged"))


def score_plots(workdir: Workdir) -> list[tuple[str, Markup]]:
    """(stage, how the scores of each kind of text spread) of stages that look for self-bias."""
    out = []
    for stage in workdir.of_kind("self_bias"):
        found = read_json(stage.folder / "self_bias.json", workdir.notices)
        scores = found.get("scores")
        if not isinstance(scores, dict) or not scores:
            continue
        bars = {name: own.get("histogram", []) for name, own in scores.items()}
        out.append((stage.name, bar_plot(bars, list(SCORES), "score", f"scores of {stage.name}")))
    return out
