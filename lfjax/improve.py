"""Improve given responses with an improver, step by step, and show what changed.

    python -m lfjax.improve --model DIRECTORY --input responses.jsonl --steps 3

`--model` was trained by the method `improve`, or by reinforcement learning from there
(docs/pit.md); with `--by self_refine` it is any model that follows instructions. The input holds
Records, or objects with `prompt` (or `messages`) and `response`. With `--reward DIRECTORY`, a model
of the method `gap`, a step that is no gain ends the improvement of a response. The improved Records
are written to `--output`; answers are kept beside it, so that the same command goes on where it was
stopped.
"""

import difflib
import os
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from absl import flags

from lfjax.errors import UserError
from lfjax.main import run, start

MODEL = flags.DEFINE_string("model", None, "A model directory, or an id on the Hugging Face hub.")
INPUT = flags.DEFINE_string("input", None, "A file of responses, .jsonl or .json.")
OUTPUT = flags.DEFINE_string("output", None, "Where to write; by default beside the input.")
REWARD = flags.DEFINE_string("reward", None, "A model of the method gap, that knows when to stop.")
BY = flags.DEFINE_enum(
    "by", "improver", ["improver", "self_refine"], "Who improves: an improver, or own feedback."
)
STEPS = flags.DEFINE_integer("steps", 3, "At most so many improvements of a response.", 1)
SHOW = flags.DEFINE_integer("show", 10, "How many changes to show.", 0)
TEMPLATE = flags.DEFINE_string(
    "template", "own", "alpaca, tulu, bare, own (the model's chat template) or a .jinja file."
)
TEMPERATURE = flags.DEFINE_float("temperature", 0.4, "0 takes the likeliest token.", 0.0)
NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 512, "Of one answer.", 1)
TOKENS = flags.DEFINE_integer("max_tokens", 2048, "Of prompt, response and improvement.", 2)
SLOTS = flags.DEFINE_integer("slots", 32, "Answers that are drawn at once.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Of weights and activations, or bfloat16.")
REASONS = 5  # why there is no answer, of which so many are told


def main(argv) -> None:
    start(argv)
    if MODEL.value is None or INPUT.value is None:
        raise UserError("--model DIRECTORY_OR_HUB_ID and --input FILE are needed.")
    import jax

    from lfjax.data.load import told
    from lfjax.data.records import to_jsonl
    from lfjax.judges.asking import collect
    from lfjax.judges.store import Store
    from lfjax.models.hf import resolve_model
    from lfjax.sharding import make_mesh
    from lfjax.stages import improving
    from lfjax.stages.monitors import similarity
    from lfjax.training.logs import write_atomic

    records = read_responses(INPUT.value)
    output = Path(OUTPUT.value or Path(INPUT.value).with_suffix(".improved.jsonl"))
    mesh = make_mesh({"tensor": 1, "fsdp": -1})
    path = resolve_model(MODEL.value)
    with jax.set_mesh(mesh), Store(output.with_suffix(".answers")) as store:
        gap = None if REWARD.value is None else open_gap(REWARD.value, mesh, path)
        asker = open_asker(path, mesh)
        ask = partial(collect, asker=asker, store=store, name="answers")
        missing: Counter = Counter()

        def one_step(going):
            made = improving.BY[BY.value](going, ask, asker.name)
            for got in made.got:
                missing.update(got.missing)
            return made.records

        how = dict(steps=STEPS.value, gap=gap, similar=similarity)
        found = improving.improve_until(records, one_step, **how)
    why = told(Counter(dict(missing.most_common(REASONS))))
    if missing:
        print(f"without an answer: {why}", flush=True)
    if all(h.stopped == "no answer" and len(h.versions) == 1 for h in found):
        raise UserError(
            f"{INPUT.value}: not one of {len(found)} responses was improved, for want of an answer "
            f"({why}); {output} was not written. --max_tokens bounds prompt, response "
            "and improvement together, --max_new_tokens the improvement."
        )
    write_atomic(output, to_jsonl(history.as_record() for history in found))
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for history in [h for h in found if len(h.versions) > 1][: SHOW.value]:
        print("\n".join(lines_of(history, color)), flush=True)
    better = sum(len(h.versions) > 1 for h in found)
    ended = told(Counter(h.stopped for h in found))
    print(f"{better} of {len(found)} responses changed; ended by: {ended}; written to {output}")


def read_responses(path: str) -> list:
    """Records with responses: of Records, or of objects with `prompt` or `messages`, and
    `response`.

    Raises: UserError naming the line of a row that is neither.
    """
    from lfjax.data.sources import load, read_json

    rows = list(read_json(path))
    if rows and all(isinstance(row, dict) and "source" in row for _, row in rows):
        records = load(path, "records").records
    else:
        records = [_record(row, where, number) for number, (where, row) in enumerate(rows)]
    twice = [name for name, count in Counter(r.id for r in records).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: {len(twice)} ids are there more than once, such as '{twice[0]}'; the "
            "improved responses could not be told apart. Give each row an id of its own, or none."
        )
    lacking = [r.id for r in records if not r.response]
    if lacking or not records:
        whose = f"record '{lacking[0]}', one of {len(lacking)}, has" if lacking else "it has"
        raise UserError(f"{path}: {whose} no response; there is nothing to improve.")
    return records


def _record(row, where: str, number: int):
    from lfjax.data.records import Record, RecordError

    asked = row.get("prompt", row.get("messages")) if isinstance(row, dict) else None
    if isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    if not isinstance(asked, list):
        raise RecordError(f"{where}: expected an object with 'prompt' and 'response'.")
    name = str(row.get("id", number))
    made = {"id": name, "source": "file", "prompt": asked, "response": row.get("response")}
    return Record.from_json(made, where)


def open_asker(path: str, mesh):
    """The model that improves."""
    from lfjax.generation.speaker import open_speaker
    from lfjax.judges.model import model_asker
    from lfjax.stages.artifacts import hash_path

    sizes = dict(dtype=DTYPE.value, slots=SLOTS.value, max_tokens=TOKENS.value)
    speaker = open_speaker(path, mesh, template=TEMPLATE.value, **sizes)
    return model_asker(
        speaker,
        name=Path(path).name,
        weights=hash_path(path),
        dtype=DTYPE.value,
        seed=SEED.value,
        sampling={"temperature": TEMPERATURE.value},
        max_new_tokens=NEW_TOKENS.value,
    )


def open_gap(path: str, mesh, policy: str):
    """Improved records -> centred gaps, NaN where texts are too long for it. Raises: UserError for
    a model that scores single texts."""
    from lfjax.stages.scoring import load_scorer

    scorer = load_scorer(path, mesh, policy=policy, dtype=DTYPE.value)
    if not scorer.compares:
        raise UserError(
            f"{path}: scores responses one by one; --reward needs a model of the method gap."
        )
    return scorer.where_it_fits


def lines_of(history, color: bool) -> list[str]:
    """A response's improvements for the terminal: id, then each step's words that went and came."""
    from lfjax.data.load import safe

    out = []
    for step, (old, new) in enumerate(zip(history.versions, history.versions[1:])):
        gap = f", gap {history.gaps[step]:+.3g}" if history.gaps else ""
        out.append(f"--- {safe(history.record.id)}, step {step + 1}{gap}")
        out.append(word_diff(safe(old, lines=True), safe(new, lines=True), color))
    return out


def word_diff(old: str, new: str, color: bool) -> str:
    """The new text with what went as [-…-] and what came as {+…+}, or in red and green."""
    marks = ("\x1b[31m", "\x1b[0m", "\x1b[32m", "\x1b[0m") if color else ("[-", "-]", "{+", "+}")
    a, b = (re.findall(r"\s+|\S+", text) for text in (old, new))
    out = []
    for kind, i, j, k, n in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            out.append("".join(b[k:n]))
            continue
        out += [f"{marks[0]}{''.join(a[i:j])}{marks[1]}"] if j > i else []
        out += [f"{marks[2]}{''.join(b[k:n])}{marks[3]}"] if n > k else []
    return "".join(out)


if __name__ == "__main__":
    run(main)
