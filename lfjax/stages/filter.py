"""The filter stage: records in, some or others of them out."""

from lfjax.data.filters import FILTERS
from lfjax.data.load import load_records, told
from lfjax.data.mixture import data_inputs
from lfjax.data.records import to_jsonl
from lfjax.errors import UserError, nearest
from lfjax.stages.artifacts import Result, Stage
from lfjax.training.logs import write_atomic


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
    records = load_records(c.data, stage.inputs, stage.seed)[0].records
    kept, left = FILTERS[c.filter](records, stage.seed)
    if not kept:
        raise UserError(f"stage '{stage.name}': no record is left ({told(left)}).")
    stage.begin()
    write_atomic(stage.folder / "records.jsonl", to_jsonl(kept))
    return Result({"records": "records.jsonl"}, {"records": len(kept), **left}, {})
