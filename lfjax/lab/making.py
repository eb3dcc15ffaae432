"""What recipes call by name: worlds written out as files, and the oracle as a rule."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from lfjax.data.records import Feedback, Record, to_jsonl
from lfjax.data.views import need_response
from lfjax.errors import UserError
from lfjax.judges.parsing import Critique
from lfjax.lab.ledger import TEMPLATE as LEDGER_TEMPLATE
from lfjax.lab.ledger import Ledger
from lfjax.lab.model import write_model
from lfjax.lab.oracle import Oracle, world_of
from lfjax.lab.phrasebook import Phrasebook
from lfjax.lab.repair import Repair
from lfjax.training.logs import write_atomic

EVALUATED = ("seen", "unseen", "clean", "ignorance")  # groups of words, each with its prompts


def phrasebook(
    folder: Path, *, seed: int, pretraining: int, feedback: int, evaluated: int
) -> dict[str, str]:
    """A phrasebook's tokenizer and model configuration, its pretraining texts, the prompts on which
    feedback is given, and prompts of every group of words to evaluate on.

    Args:
      pretraining, feedback: texts and prompts.
      evaluated: prompts of each group, in `validation` and in `test`.
    """
    book = Phrasebook(seed)
    write_model(folder / "model", book)
    records = {
        "pretraining": list(book.pretraining(pretraining)),
        "feedback": book.prompts("feedback", "train", feedback),
    }
    for split in ("validation", "test"):
        groups = (book.prompts(group, split, evaluated) for group in EVALUATED)
        records[split] = [record for group in groups for record in group]
    return _written(folder, records)


def ledger(
    folder: Path,
    *,
    seed: int,
    pretraining: int,
    prompts: int,
    evaluated: int,
    **settings: Any,
) -> dict[str, str]:
    """A ledger's tokenizer and model configuration, its pretraining texts, prompts to learn from,
    prompts to evaluate on, in `validation` and in `test`, and preferences between two answers.

    Args:
      settings: of the `Ledger`.
    """
    book = Ledger(seed, **settings)
    write_model(folder / "model", book, template=LEDGER_TEMPLATE, lines=True)
    records = {
        "comparisons": list(book.comparisons(pretraining // 4)),
        "totals": list(book.totals(pretraining * 5 // 6)),
        "exercises": list(book.exercises(pretraining)),
        "pretraining": list(book.pretraining(pretraining)),
        "prompts": book.prompts("train", prompts),
        "validation": book.prompts("validation", evaluated),
        "test": book.prompts("test", evaluated),
        "preferences": book.preferences("validation", evaluated),
    }
    return _written(folder, records)


def repair(
    folder: Path, *, seed: int, pretraining: int, preferences: int, evaluated: int, **settings: Any
) -> dict[str, str]:
    """A garden's tokenizer and model configuration, its pretraining texts, compared responses,
    and prompts to evaluate on, in `validation` and in `test`.

    Args:
      settings: of `Repair`.
    """
    garden = Repair(seed, **settings)
    write_model(folder / "model", garden, template=garden.template)
    records = {
        "pretraining": list(garden.pretraining(pretraining)),
        "preferences": garden.preferences("train", preferences),
        "validation": garden.prompts("validation", evaluated),
        "test": garden.prompts("test", evaluated),
    }
    return _written(folder, records)


def _written(folder: Path, records: dict[str, list[Record]]) -> dict[str, str]:
    """The files of a world beside its model; the outputs by name."""
    for name, found in records.items():
        write_atomic(folder / f"{name}.jsonl", to_jsonl(found))
    return {"model": "model", **{name: f"{name}.jsonl" for name in records}}


def critic(record: Record) -> Critique:
    """The rule judge of the ledger: a critique in SRT's form, with its improved response. Raises:
    UserError for a record of another world."""
    world = world_of(record)
    if not isinstance(world, Ledger):
        raise UserError(f"record '{record.id}' of {record.source}: is not of the ledger.")
    return world.critique(record, need_response(record))


def oracle(record: Record, **options: Any) -> Feedback:
    """The rule judge of every world: `Oracle` with its options."""
    return _oracle(tuple(sorted(options.items()))).feedback(record, need_response(record))


@lru_cache(maxsize=8)
def _oracle(options: tuple[tuple[str, Any], ...]) -> Oracle:
    return Oracle(**dict(options))
