"""The generate stage: draw prompts, ask a model or an endpoint for responses (or for refinements of
judged ones, or of the model's own by its own feedback), and write Records."""

import random
from collections import Counter
from dataclasses import replace

from lfjax.data.folds import prompt_key
from lfjax.data.load import load_records, tell_left_out, told
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Record, to_jsonl
from lfjax.data.self_refine import LEAVE_OUT, begun, begun_with, feedback_text, stop_of
from lfjax.data.sources import load
from lfjax.data.views import after_response, need_judgment, need_response, refine_request
from lfjax.errors import UserError, nearest
from lfjax.judges.asking import Answer, Question
from lfjax.stages.answers import (
    asker_inputs,
    collected,
    cost_of,
    local_asker,
    open_asker,
    open_local,
    total_cost,
)
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.own_words import self_refined
from lfjax.training.logs import write_atomic

ASKS = ("response", "refinement", "self_refine")
LAYOUTS = ("turns", "self_refine")


def inputs(config) -> dict[str, str]:
    """What the stage reads: prompts, those that must be others, and a model unless an endpoint is
    asked."""
    apart = {"apart_from": config.apart_from} if config.apart_from else {}
    return {**data_inputs(config.data), **asker_inputs(config), **apart}


def generate(stage: Stage) -> Result:
    """Answers to all drawn prompts; what an earlier start of the run collected is not asked
    again."""
    c = stage.config
    for name, value, known in (
        ("asks", c.asks, ASKS),
        ("layout", c.layout, LAYOUTS),
        ("leave_out", c.leave_out, LEAVE_OUT),
    ):
        if value not in known:
            raise UserError(f"{name}='{value}'. {nearest(value, known)}")
    if c.samples < 1 or (c.asks != "response" and c.samples > 1):
        raise UserError(
            f"samples={c.samples}: expected at least 1, and 1 for what is not a response."
        )
    records = draw(stage)
    asked, kept = split(records, c.asks)
    own_turn = c.asks == "self_refine" or c.layout == "self_refine"
    speaker = open_local(stage, c.data.template) if own_turn else None
    if c.asks == "self_refine":
        asker = local_asker(stage, speaker, stop=(*c.stop, stop_of(c.leave_out)))
    elif own_turn:
        asker = local_asker(stage, speaker)
    else:
        asker = open_asker(stage, c.data.template, c.judgment or None)
    questions = [question(record, sample, c) for record in asked for sample in range(c.samples)]
    stage.begin()
    got = collected(stage, questions, asker)
    whose = [(record, sample) for record in asked for sample in range(c.samples)]
    made = [
        answered(record, sample, answer, asker.name, c)
        for (record, sample), answer in zip(whose, got.answers)
        if answer.text is not None
    ]
    refined, costs = {}, [cost_of(got)]
    if c.asks == "self_refine":
        made, refined, more = self_refined(stage, speaker, made)
        costs.append(more)
    write_atomic(stage.folder / "records.jsonl", to_jsonl(in_order([*made, *kept], records)))
    ends = Counter(a.finish or "unknown" for a in got.answers if a.text is not None)
    print(f"  answers ended: {told(ends)}", flush=True)
    headline = {
        "records": len(made) + len(kept),
        "answers": len(made),
        "missing": len(questions) - len(made),
        "cut_at_limit": ends["length"],
        "mean_tokens": sum(a.tokens for a in got.answers) / max(len(made), 1),
        **refined,
    }
    return Result({"records": "records.jsonl"}, headline, total_cost(costs))


def draw(stage: Stage) -> list[Record]:
    """The prompts of this stage: in an order drawn by the seed, without repetitions, those from
    `first_example` on. Stages with the same seed and other places draw other ones.

    Raises: UserError where there are too few, or one that is also in `apart_from`.
    """
    records = _drawn(stage)
    if stage.config.apart_from:
        check_apart(records, stage.inputs["apart_from"])
    return records


def _drawn(stage: Stage) -> list[Record]:
    c = stage.config
    loaded, heldout = load_records(c.data, stage.inputs, stage.seed)
    tell_left_out(loaded)
    if c.part not in ("train", "heldout"):
        raise UserError(f"part='{c.part}': expected train or heldout.")
    records = heldout if c.part == "heldout" else loaded.records
    if c.asks != "refinement":
        records = list({prompt_key(r): r for r in reversed(records)}.values())[::-1]
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


def check_apart(records: list[Record], path: str) -> None:
    """Raises: UserError naming a prompt that is also among the Records of a file: what a stage
    learns from must be new to it."""
    known = {prompt_key(r): r for r in load(path, "records").records}
    shared = [(r, known[prompt_key(r)]) for r in records if prompt_key(r) in known]
    if shared:
        own, other = shared[0]
        raise UserError(
            f"{len(shared)} of {len(records)} prompts are also in {path}, which they must not be: "
            f"'{own.id}' is '{other.id}' there ({own.prompt[-1].content[:60]!r}). Draw both from "
            "one file by first_example, or take these prompts out. Nothing was asked."
        )


def split(records: list[Record], asks: str) -> tuple[list[Record], list[Record]]:
    """(those to ask about, those that stay as they are: satisfactory ones need no refinement)."""
    if asks != "refinement":
        return records, []
    flawed = [r for r in records if not r.satisfactory]
    return flawed, [r for r in records if r.satisfactory]


def question(record: Record, sample: int, c) -> Question:
    """The conversation to be continued, and how the answer begins."""
    if c.asks != "refinement":
        return Question(record.prompt, sample)
    if c.layout == "turns":
        request = refine_request(need_judgment(record))
        return Question(after_response(record, request), sample)
    response = need_response(record)
    if c.leave_out == "feedback":
        return Question(record.prompt, sample, begun(response, c.leave_out))
    said = feedback_text(record, c.leave_out)
    return Question(record.prompt, sample, begun_with(response, said))


def answered(record: Record, sample: int, answer: Answer, name: str, c) -> Record:
    """The record with its answer. A new response has no feedback yet; of several samples each is a
    record of its own, which remembers its prompt."""
    if c.asks == "refinement":
        return replace(record, refinement=answer.text, meta={**record.meta, "refined_by": name})
    meta = {"finish": answer.finish}
    own = record.id
    if c.samples > 1:
        own, meta = f"{record.id}/{sample}", {**meta, "prompt_id": record.id, "sample": sample}
    # What goes on with its feedback leaves blank lines before the text that it was cut at.
    text = answer.text.rstrip() if c.stop or c.asks == "self_refine" else answer.text
    return Record(own, record.source, record.prompt, text, name, meta={**record.meta, **meta})


def in_order(made: list[Record], records: list[Record]) -> list[Record]:
    """Records in the order in which their prompts were drawn."""
    place = {r.id: i for i, r in enumerate(records)}
    return sorted(made, key=lambda r: place[r.meta.get("prompt_id", r.id)])
