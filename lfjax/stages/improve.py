"""The improve stage: responses improved step by step, by an improver or by a model's own feedback,
as Records."""

from collections.abc import Callable, Sequence
from functools import partial

from lfjax.data.load import load_records, tell_left_out, told
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Record, to_jsonl
from lfjax.errors import UserError, nearest
from lfjax.judges.asking import Asker, Collected, Question
from lfjax.stages.answers import asker_inputs, collected, cost_of, open_asker, total_cost
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.improving import BY, begin, next_step
from lfjax.training.logs import write_atomic


def inputs(config) -> dict[str, str]:
    """What the stage reads: responses, and a model unless an endpoint is asked."""
    return {**data_inputs(config.data), **asker_inputs(config)}


def improve(stage: Stage) -> Result:
    """`records` holds what the last step made, `step1`, … what each step before it did. What one
    step did not answer, the next is not asked about; what an earlier start collected, nobody is
    asked again.

    Raises: UserError for settings that make no sense, or where nothing is answered.
    """
    c = stage.config
    if c.by not in BY:
        raise UserError(f"by='{c.by}': expected {' or '.join(BY)}. {nearest(c.by, BY)}")
    if c.steps < 1:
        raise UserError(f"steps={c.steps}: expected at least 1.")
    records = begin(drawn(stage), c.of)
    asker = open_asker(stage, c.data.template)
    own = dict(feedback=c.feedback_question, rewrite=c.rewrite_question)
    one_step = partial(BY[c.by], **own) if c.by == "self_refine" else BY[c.by]
    stage.begin()
    ask = _ask(stage, asker)
    count, files, got = len(records), {}, []
    for step in range(1, c.steps + 1):
        made = one_step(records, ask, asker.name)
        got += made.got
        name = "records" if step == c.steps else f"step{step}"
        write_atomic(stage.folder / f"{name}.jsonl", to_jsonl(made.records))
        files[name] = f"{name}.jsonl"
        records = next_step(made.records)
    answers = [a for g in got for a in g.answers]
    headline = {
        "records": len(made.records),
        "missing": count - len(made.records),
        "cut_at_limit": sum(a.finish == "length" for a in answers),
        "unchanged": sum(r.refinement == r.response for r in made.records) / len(made.records),
        "mean_tokens": sum(a.tokens for a in answers) / count,  # of all steps
    }
    return Result(files, headline, total_cost([cost_of(g) for g in got]))


def _ask(stage: Stage, asker: Asker) -> Callable[[Sequence[Question]], Collected]:
    def ask(questions: Sequence[Question]) -> Collected:
        return collected(stage, questions, asker)

    return ask


def drawn(stage: Stage) -> list[Record]:
    """The records of a part, all of them or so many from the start.

    Raises: UserError where there are none, or too few.
    """
    c = stage.config
    loaded, heldout = load_records(c.data, stage.inputs, stage.seed)
    tell_left_out(loaded)
    if c.part not in ("train", "heldout"):
        raise UserError(f"part='{c.part}': expected train or heldout.")
    records = heldout if c.part == "heldout" else loaded.records
    if c.examples > len(records) or not records:
        reasons = told(loaded.dropped)
        raise UserError(
            f"stage '{stage.name}': {len(records)} records ({c.part}; left out: {reasons}), but "
            f"{c.examples or 'some'} are wanted."
        )
    return records[: c.examples or None]
