"""The filter stage: records in, some or others of them out."""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from lfjax.data.filters import (
    Filtered,
    again,
    commonest,
    compared,
    ranked,
    refined,
    satisfactory,
    shuffled,
    sides,
)
from lfjax.data.folds import exchanged, folds, pairings
from lfjax.data.load import load_records, tell_left_out, told
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Record, to_jsonl
from lfjax.data.views import need_response
from lfjax.errors import UserError, nearest
from lfjax.judges import lesson
from lfjax.stages.artifacts import Result, Stage
from lfjax.training.logs import write_atomic


def lessons(records: Sequence[Record], seed: int) -> Filtered:
    """What a judgment model learns from judged responses (`lfjax.judges.lesson`)."""
    judged = [r for r in records if r.feedback]
    return [lesson(r) for r in judged], Counter({"not judged": len(records) - len(judged)})


def improved(records: Sequence[Record], seed: int, *, kind: str = "one") -> Filtered:
    """Flawed responses of a world of the lab with the improved response that its oracle gives: the
    faults that a judgment of this kind names are repaired, the others stay."""
    from lfjax.lab.oracle import Oracle

    oracle, out = Oracle(kind), []
    for r in records:
        better = None if r.satisfactory else oracle.improved(r, need_response(r))
        out.append(replace(r, refinement=better))
    return out, Counter()


FILTERS: dict[str, Callable[..., Filtered]] = {
    "shuffled": shuffled,
    "satisfactory": satisfactory,
    "compared": compared,
    "refined": refined,
    "again": again,
    "sides": sides,
    "ranked": ranked,
    "commonest": commonest,
    "lessons": lessons,
    "improved": improved,
    "folds": folds,
    "exchanged": exchanged,
    "pairings": pairings,
}


def inputs(config) -> dict[str, str]:
    """What the stage reads."""
    return data_inputs(config.data)


def filter_records(stage: Stage) -> Result:
    """Apply one of `FILTERS`, and say what is left out.

    Raises: UserError for an unknown filter, or where nothing is left.
    """
    c = stage.config
    if c.filter not in FILTERS:
        raise UserError(f"filter: unknown '{c.filter}'. {nearest(c.filter, FILTERS)}")
    loaded = load_records(c.data, stage.inputs, stage.seed)[0]
    tell_left_out(loaded)
    options = c.options.to_dict() if "options" in c else {}
    unknown = set(options) - set(inspect.signature(FILTERS[c.filter]).parameters)
    if unknown:
        raise UserError(f"filter '{c.filter}': unknown option '{min(unknown)}'.")
    kept, left = FILTERS[c.filter](loaded.records, stage.seed, **options)
    parts = kept if isinstance(kept, dict) else {"records": kept}
    if not any(parts.values()):
        raise UserError(f"stage '{stage.name}': no record is left ({told(left)}).")
    stage.begin()
    for name, found in parts.items():
        write_atomic(stage.folder / f"{name}.jsonl", to_jsonl(found))
    files = {name: f"{name}.jsonl" for name in parts}
    return Result(files, {**{name: len(found) for name, found in parts.items()}, **left}, {})
