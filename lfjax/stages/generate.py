"""The generate stage: draw prompts, ask a model or an endpoint for responses (or for refinements of
judged ones), and write Records."""

import random
from collections import Counter
from dataclasses import replace

from lfjax.data.load import load_records, told
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Message, Record, to_jsonl
from lfjax.data.views import after_response, need_judgment, refine_request
from lfjax.errors import UserError, nearest
from lfjax.judges.asking import Answer, Question
from lfjax.stages.answers import (
    asker_inputs,
    collected,
    cost_of,
    open_asker,
)
from lfjax.stages.artifacts import Result, Stage
from lfjax.training.logs import write_atomic

ASKS = ("response", "refinement")


def inputs(config) -> dict[str, str]:
    """What the stage reads: prompts, and a model unless an endpoint is asked."""
    return {**data_inputs(config.data), **asker_inputs(config)}


def generate(stage: Stage) -> Result:
    """Answers to all drawn prompts; what an earlier start of the run collected is not asked
    again."""
    c = stage.config
    if c.asks not in ASKS:
        raise UserError(f"asks='{c.asks}': expected {' or '.join(ASKS)}. {nearest(c.asks, ASKS)}")
    if c.samples < 1 or (c.asks == "refinement" and c.samples > 1):
        raise UserError(f"samples={c.samples}: expected at least 1, and 1 for refinements.")
    records = draw(stage)
    asked, kept = split(records, c.asks)
    asker = open_asker(stage, c.data.template, c.judgment or None)
    questions = [
        Question(messages(record, c.asks), sample)
        for record in asked
        for sample in range(c.samples)
    ]
    stage.begin()
    got = collected(stage, questions, asker)
    whose = [(record, sample) for record in asked for sample in range(c.samples)]
    made = [
        answered(record, sample, answer, asker.name, c)
        for (record, sample), answer in zip(whose, got.answers)
        if answer.text is not None
    ]
    write_atomic(stage.folder / "records.jsonl", to_jsonl(in_order([*made, *kept], records)))
    ends = Counter(a.finish or "unknown" for a in got.answers if a.text is not None)
    print(f"  answers ended: {told(ends)}", flush=True)
    headline = {
        "records": len(made) + len(kept),
        "answers": len(made),
        "missing": len(questions) - len(made),
        "cut_at_limit": ends["length"],
        "mean_tokens": sum(a.tokens for a in got.answers) / max(len(made), 1),
    }
    return Result({"records": "records.jsonl"}, headline, cost_of(got))


def draw(stage: Stage) -> list[Record]:
    """The prompts of this stage: in an order drawn by the seed, without repetitions, those from
    `first_example` on. Stages with the same seed and other places draw other ones.

    Raises: UserError where there are too few.
    """
    c = stage.config
    loaded, heldout = load_records(c.data, stage.inputs, stage.seed)
    if c.part not in ("train", "heldout"):
        raise UserError(f"part='{c.part}': expected train or heldout.")
    records = heldout if c.part == "heldout" else loaded.records
    if c.asks == "response":
        records = list({r.prompt: r for r in reversed(records)}.values())[::-1]
    if not c.examples:
        if c.first_example:
            raise UserError("first_example is set, but examples is 0, which takes all of them.")
        return records
    order = random.Random(stage.seed).sample(range(len(records)), len(records))
    chosen = order[c.first_example : c.first_example + c.examples]
    if len(chosen) < c.examples:
        raise UserError(
            f"stage '{stage.name}' draws {c.examples} prompts from place {c.first_example} on, but "
            f"there are {len(records)} different ones ({c.part})."
        )
    return [records[i] for i in chosen]


def split(records: list[Record], asks: str) -> tuple[list[Record], list[Record]]:
    """(those to ask about, those that stay as they are: satisfactory ones need no refinement)."""
    if asks == "response":
        return records, []
    flawed = [r for r in records if not r.satisfactory]
    return flawed, [r for r in records if r.satisfactory]


def messages(record: Record, asks: str) -> tuple[Message, ...]:
    """The conversation to be continued."""
    if asks == "response":
        return record.prompt
    return after_response(record, refine_request(need_judgment(record)))


def answered(record: Record, sample: int, answer: Answer, name: str, c) -> Record:
    """The record with its answer. A new response has no feedback yet; of several samples each is a
    record of its own, which remembers its prompt."""
    if c.asks == "refinement":
        return replace(record, refinement=answer.text, meta={**record.meta, "refined_by": name})
    meta = {"finish": answer.finish}
    own = record.id
    if c.samples > 1:
        own, meta = f"{record.id}/{sample}", {**meta, "prompt_id": record.id, "sample": sample}
    return Record(
        own, record.source, record.prompt, answer.text, name, meta={**record.meta, **meta}
    )


def in_order(made: list[Record], records: list[Record]) -> list[Record]:
    """Records in the order in which their prompts were drawn."""
    place = {r.id: i for i, r in enumerate(records)}
    return sorted(made, key=lambda r: place[r.meta.get("prompt_id", r.id)])
