"""Show what a recipe's training stages will learn, before they do: no weights are read, no step is
made.

    python -m lfjax.doctor --config configs/cut.py:tiny

Any value of the config can be set as for lfjax.main. --stage NAME looks at one stage, --rows N
shows so many rows of its first batch, and --workdir DIR finds what earlier stages wrote.
"""

import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from lfjax.data.load import Batches, safe, told
from lfjax.data.plan import Plan, density, make_plan
from lfjax.data.rows import Rows, Unit
from lfjax.data.views import Role
from lfjax.errors import UserError, nearest
from lfjax.main import CONFIG, RERUN, WORKDIR, run, start

STAGE = flags.DEFINE_string("stage", None, "Look at this stage only.")
ROWS = flags.DEFINE_integer("rows", 2, "Rows of the first batch to show in full.", lower_bound=0)

BINS, BAR = 10, 40  # of a histogram: at most so many lines, its longest bar in characters
STYLES = {"dim": "2", "bold": "1", "twin": "4", "trimmed": "31;9"}
STYLES |= {"PLAIN": "32", "JUDGED": "36", "FLAWED": "33", "PRAISED": "35"}


@dataclass(frozen=True)
class Study:
    """A training stage as the doctor sees it: everything but weights."""

    config: Any
    seed: int
    batches: Batches
    evaluated: Batches | None
    tokenizer: Any
    judgments: list[int]  # tokens of every judgment shown
    parameters: int
    adapters: int | None  # parameters of them; None where all parameters are trained
    shards: int  # parts of a batch


class NotWritten(UserError):
    """A stage's records are those of an earlier stage that was not run."""


def main(argv) -> None:
    start(argv)
    if CONFIG.value is None:
        example = next(line.strip() for line in __doc__.splitlines() if "python -m" in line)
        raise UserError(f"--config FILE is needed. Example: {example}")
    if RERUN.value:
        raise UserError("--rerun: the doctor runs nothing; that is for lfjax.main.")
    from lfjax.sharding import make_mesh

    config, paint = CONFIG.value, Paint(colourful(sys.stdout, os.environ))
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character gets its code
        sys.stdout.reconfigure(errors="backslashreplace")
    names = [n for n in config.order if config.stages[n].kind == "train"]
    if STAGE.value is not None:
        if STAGE.value not in names:
            raise UserError(
                f"--stage: no training stage '{STAGE.value}'. {nearest(STAGE.value, names)}"
            )
        names = [STAGE.value]
    mesh = make_mesh(dict(config.mesh))
    for name in names:
        print(paint("bold", f"{name}: {config.stages[name].method}"), flush=True)
        try:
            study = examine(config, name, mesh, WORKDIR.value)
        except NotWritten as error:
            if STAGE.value is not None or name == names[0]:
                raise
            print(f"  {error}\n", flush=True)  # a loop's later stages learn from its earlier ones
            continue
        for title, lines in (
            ("records by source", by_source(study.batches)),
            ("lengths in tokens", lengths(study)),
            ("batches", batch_lines(study)),
            (f"first batch, {ROWS.value} of its rows", dump(study, ROWS.value, paint)),
        ):
            if lines:
                print("\n".join([paint("bold", f"  {title}"), *(f"    {line}" for line in lines)]))
        print(flush=True)


# --- looking ----------------------------------------------------------------------------------


def examine(config, name: str, mesh, workdir: str | None = None) -> Study:
    """The data path of the train stage, and the shape of its model.

    Raises: UserError as the stage itself would, or where its records are yet to be made.
    """
    from lfjax.data.templates import template_text
    from lfjax.data.tokenize import load_tokenizer
    from lfjax.methods import get_method
    from lfjax.models.config import ModelConfig, read_hf_config
    from lfjax.models.decoder import abstract_lora, abstract_params
    from lfjax.sharding import BATCH, axis_size
    from lfjax.stages import train
    from lfjax.stages.artifacts import Stage
    from lfjax.stages.trainable import check_model, lora_config

    own = config.stages[name]
    inputs = {
        role: locate(config, name, role, source, workdir)
        for role, source in train.inputs(own).items()
    }
    stage = Stage(name, Path(workdir or "") / name, own, inputs, config.seed, mesh, {})
    method = get_method(own.method)
    options = method.checked(own.options.to_dict())
    views = method.views_of(options)
    template = template_text(own.data.template, inputs["init"])
    tokenizer = load_tokenizer(inputs["init"])
    batches, heldout, every = train.make_data(stage, method, options, tokenizer, template)
    model = ModelConfig.from_hf(read_hf_config(inputs["init"]), inputs["init"])
    check_model(model, own, tokenizer, mesh, inputs["init"])
    lora = lora_config(own.lora, model)
    shown = (v.judgment for u in batches.encoded.units for v in views(batches.records[u.record]))
    return Study(
        own,
        config.seed,
        batches,
        heldout if every["eval"] else None,
        tokenizer,
        [len(tokenizer.encode(j)) for j in shown if j is not None],
        size(abstract_params(model)),
        size(abstract_lora(model, lora)) if lora else None,
        axis_size(mesh, BATCH),
    )


def locate(config, name: str, role: str, source: str, workdir: str | None) -> str:
    """The path of a stage's input. A stage that was not run has no model yet, but its tokenizer and
    shape are those of the model it starts from.

    Raises: UserError for a path that is absent; NotWritten for records that no stage has written.
    """
    from lfjax.stages import train
    from lfjax.stages.artifacts import find_input, output_of

    while (earlier := source.partition("/")[0]) in config.order:
        if workdir and (Path(workdir) / earlier / "done.json").is_file():
            return output_of(Path(workdir), name, *source.split("/", 1))[0]
        if role != "init" or "init" not in config.stages[earlier]:
            raise NotWritten(
                f"stage '{name}' learns from what stage '{earlier}' has yet to write; "
                "run that first and give its --workdir, or look at another --stage."
            )
        source = train.inputs(config.stages[earlier])["init"]
    return find_input(name, role, source)


# --- telling ----------------------------------------------------------------------------------


def by_source(batches: Batches) -> list[str]:
    """A table of records by source: what they are, and what becomes of them."""
    head = ("source", "records", "satisfactory", "flawed", "used", "trimmed", "left out")
    used = {u.record: u for u in batches.encoded.units}
    rows = [head]
    for source in sorted({r.source for r in batches.records}):
        here = [i for i, r in enumerate(batches.records) if r.source == source]
        good = sum(batches.records[i].satisfactory for i in here)
        trimmed = sum(any(s.trimmed for s in used[i].segments) for i in here if i in used)
        why = Counter(batches.encoded.left_out[i] for i in here if i not in used)
        numbers = (len(here), good, len(here) - good, sum(i in used for i in here), trimmed)
        rows.append((safe(source), *map(str, numbers), told(why)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(w) if i in (0, len(head) - 1) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def lengths(study: Study) -> list[str]:
    """Histograms of what is used, before trimming."""
    units = study.batches.encoded.units
    segments = [s for u in units for s in u.segments]
    whole = [len(s.ids) + s.trimmed for s in segments]
    # The shortest prompt of a record is the one without a judgment, where there is such a view.
    prompts = [min(s.first + s.trimmed for s in u.segments) for u in units]
    responses = [len(u.segments[0].ids) - u.segments[0].first for u in units]
    return [
        *histogram("prompts, with their template", prompts),
        *histogram("responses, with EOS", responses),
        *histogram("judgments", study.judgments),
        *histogram(f"whole segments (max_tokens={study.config.max_tokens})", whole),
    ]


def histogram(title: str, values: list[int]) -> list[str]:
    """`title: 280, from 20 to 57, median 31, 95 % up to 48`, and a bar per bin of round width."""
    if not values:
        return []
    v = np.asarray(values)
    median, high = np.percentile(v, [50, 95])
    steps = (m * 10**k for k in range(12) for m in (1, 2, 5))
    low = v.min()
    width = next(s for s in steps if v.max() // s - low // s < BINS)
    edges = range(low // width * width, v.max() + 1, width)
    counts = [int(((v >= e) & (v < e + width)).sum()) for e in edges]
    digits = len(str(edges[-1] + width - 1))
    return [
        f"{title}: {len(v)}, from {low} to {v.max()}, median {median:.0f}, 95 % up to {high:.0f}",
        *(
            f"  {e:>{digits}}–{e + width - 1:<{digits}} "
            f"{'█' * -(-n * BAR // max(counts))}{' ' * (n > 0)}{n}"
            for e, n in zip(edges, counts)
        ),
    ]


def batch_lines(study: Study) -> list[str]:
    """Examples, density and shapes of the plan, the other plan beside it, bytes, and the model."""
    c, plan = study.config, study.batches.plan
    sizes = study.batches.encoded.lengths
    epoch = dict(row_tokens=c.row_tokens, seed=study.seed, multiple=study.shards * c.micro_batches)
    if c.batch_examples:
        chosen, other = {"batch_examples": c.batch_examples}, {"batch_rows": max(plan.shapes)}
    else:
        mean = max(1, round(plan.epoch_examples / plan.epoch_steps))
        chosen, other = {"batch_rows": c.batch_rows}, {"batch_examples": mean}
    lines = [
        plan_line("as set", chosen, plan, sizes),
        plan_line("instead", other, make_plan(sizes, **other, **epoch), sizes),
    ]
    compiled = {"train step": set(plan.shapes)}
    if study.evaluated:
        compiled["evaluation"] = set(study.evaluated.plan.shapes)
    for what, shapes in compiled.items():
        for b in sorted(shapes):
            table = plan.row_units * study.batches.segments
            total = rows_bytes(Rows.empty(b, c.row_tokens, table))
            lines.append(
                f"compiled: {what} for {b} × {c.row_tokens} tokens; a batch is {total:,} bytes, "
                f"{total // study.shards:,} a device"
            )
    trained = study.parameters if study.adapters is None else study.adapters
    kind = "all trained" if study.adapters is None else f"frozen, {trained:,} of adapters trained"
    return [*lines, f"model: {study.parameters:,} parameters, {kind}"]


def plan_line(title: str, sizes: dict[str, int], plan: Plan, unit_lengths) -> str:
    """What a plan with `batch_examples` or `batch_rows` means for its steps."""
    ((key, value),) = sizes.items()
    taken = np.diff(plan.first)
    return (
        f"{title}, {key}={value}: {plan.epoch_steps} steps an epoch, {taken.mean():.1f} examples "
        f"a step ({taken.min()} to {taken.max()}), rows a step {' or '.join(map(str, plan.shapes))}"
        f", {density(plan, unit_lengths):.0%} full"
    )


def size(tree) -> int:
    """Numbers in a tree of arrays or shapes."""
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def rows_bytes(rows: Rows) -> int:
    """Bytes of all arrays of a batch."""
    import jax

    return sum(leaf.nbytes for leaf in jax.tree.leaves(rows))


# --- rows as the device will see them ---------------------------------------------------------


def dump(study: Study, count: int, paint: "Paint") -> list[str]:
    """The first rows of the first batch, segment by segment, from the arrays themselves."""
    batches, rows = study.batches, study.batches.rows(0)
    units = [batches.encoded.units[u] for u in batches.plan.units_of(0)]
    lines = []
    for row in range(min(count, len(rows.tokens))):
        here = [u for u, r in zip(units, batches.plan.row) if r == row]
        names = [(u, i) for u in here for i in range(len(u.segments))]  # as they are numbered
        filler = int((rows.segment[row] == 0).sum())
        lines.append(paint("bold", f"row {row}: {filler} of {study.config.row_tokens} unused"))
        for number in dict.fromkeys(rows.segment[row][rows.segment[row] > 0].tolist()):
            unit, index = names[number - 1]
            lines += dump_segment(rows, row, number, unit, index, study, paint)
    if lines:
        lines.append(f"⟦{paint('bold', 'supervised')}⟧ by role, underlined where it has a twin")
    return lines


def dump_segment(
    rows: Rows, row: int, number: int, unit: Unit, index: int, study: Study, paint: "Paint"
) -> list[str]:
    """What a segment is, and its text with the supervised part between ⟦ and ⟧."""
    from lfjax.stages.blame import decoded

    here = np.flatnonzero(rows.segment[row] == number)
    ids = rows.tokens[row, here]
    # A token is supervised by the position before it; the first one of a segment never is.
    role = np.append(0, rows.role[row, here][:-1])
    twin = np.append(-1, rows.twin[row, here][:-1])
    weight = rows.weight[row, here]
    kind = Role(int(role.max())).name
    segment = unit.segments[index]
    facts = [
        f"record {safe(study.batches.records[unit.record].id)}",
        kind,
        f"{len(here)} tokens",
        f"{int((weight > 0).sum())} learned, weight {weight.sum():.4g}",
    ]
    if (twin >= 0).any():
        linked = twin[twin >= 0]
        same = (rows.targets[row, linked] == ids[twin >= 0]).all()
        facts.append(
            f"twins in segment {rows.segment[row, linked[0]]}" + ("" if same else " DIFFER")
        )
    text, spans = decoded(study.tokenizer, ids)
    body = paint("trimmed", f"[{segment.trimmed} tokens trimmed]") if segment.trimmed else ""
    end = 0
    for (supervised, linked), part in groupby(range(len(ids)), lambda i: (role[i], twin[i] >= 0)):
        part = list(part)
        # A character whose tokens stand on both sides of a border goes to the left.
        piece = safe(text[max(spans[part[0]][0], end) : spans[part[-1]][1]], lines=True)
        end = max(spans[part[-1]][1], end)
        style = [kind, "twin"] if linked else kind
        body += f"⟦{paint(style, piece)}⟧" if supervised else paint("dim", piece)
    return [f"segment {number}: " + ", ".join(facts), *(f"  {x}" for x in body.split("\n"))]


def colourful(stream, environment) -> bool:
    """Whether colours are wanted: a terminal that is not dumb, and NO_COLOR unset or empty."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


@dataclass(frozen=True)
class Paint:
    """Puts ANSI styles around text, or leaves it as it is."""

    on: bool

    def __call__(self, style: str | list[str], text: str) -> str:
        names = [style] if isinstance(style, str) else style
        codes = ";".join(STYLES[n] for n in names if n in STYLES)
        if not (self.on and codes and text):
            return text
        # A style ends with its line, so that what is printed in front of the next is not in it.
        return re.sub(r"[^\n]+", lambda m: f"\x1b[{codes}m{m[0]}\x1b[0m", text)


if __name__ == "__main__":
    run(main)
