"""Tables of what stages found, what claims came to, and what was run."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from lfjax.report.tables import Interval, Table
from lfjax.report.workdir import StageFiles, Workdir, read_json

FIRST = ("judge", "train", "rl", "generate", "filter", "make")  # what a reader wants to see first
COUNTS = ("characters", "answers", "missing")


def evaluation_tables(workdir: Workdir) -> list[Table]:
    """What every evaluate stage found: systems, comparisons, strengths, and groups of the lab."""
    tables = []
    for stage in workdir.of_kind("evaluate"):
        results = read_json(stage.folder / "results.json", workdir.notices)
        try:
            tables += _evaluation(stage.name, results)
        except (KeyError, TypeError, AttributeError) as error:
            path = stage.folder / "results.json"
            workdir.notices.append(f"{path}: is not what an evaluate stage writes ({error!r}).")
    return tables


def _evaluation(name: str, results: Mapping[str, Any]) -> list[Table]:
    """Tables of a results.json. Raises: KeyError, TypeError or AttributeError if it is none."""
    if not results:
        return []
    systems = results["systems"]
    rows = []
    for system, found in systems.items():
        scores = {k: _interval(s["mean"], s["interval"]) for k, s in found["scores"].items()}
        counts = {k: found[k] for k in COUNTS} | {"fallbacks": found.get("fallbacks")}
        rows.append({"system": system, **scores, **counts})
    how = {k: results[k] for k in ("mode", "rule", "judge", "prompts", "seeds") if k in results}
    note = ", ".join(f"{k} {v}" for k, v in how.items()) + "; 95 % intervals"
    tables = [to_table(f"evaluation-{name}", name, rows, note)]
    if results["comparisons"]:
        rows = [_comparison(c) for c in results["comparisons"]]
        tables.append(to_table(f"evaluation-{name}-comparisons", f"{name}: comparisons", rows))
    if "bradley_terry" in results:
        found = results["bradley_terry"]
        rows = [
            {"system": k, "strength": _interval(s["strength"], s["interval"])}
            for k, s in found["systems"].items()
        ]
        note = "; ".join(found["notes"])
        tables.append(
            to_table(f"evaluation-{name}-strengths", f"{name}: Bradley-Terry", rows, note)
        )
    groups = {k: s["table"] for k, s in systems.items() if s.get("table")}
    if groups:
        kinds = dict.fromkeys(kind for table in groups.values() for kind in table)
        rows = [{"what": k, **{s: t.get(k) for s, t in groups.items()}} for k in kinds]
        tables.append(to_table(f"evaluation-{name}-groups", f"{name}: by group", rows))
    return tables


def _comparison(found: Mapping[str, Any]) -> dict[str, Any]:
    """A row in which the difference stands with its interval."""
    difference = _interval(found["delta"], found["interval"])
    row = {"win - lose" if k == "delta" else k: v for k, v in found.items() if k != "interval"}
    return {**row, "win - lose": difference}


def claims_table(workdir: Workdir) -> Table | None:
    """What claims stages found: objects in a list."""
    stages = [s.folder for s in workdir.of_kind("claims")]
    path = (stages[-1] if stages else workdir.folder) / "claims.json"
    claims = read_json(path, workdir.notices, kind=list)
    rows = [c for c in claims if isinstance(c, dict)]
    if len(rows) < len(claims):
        workdir.notices.append(f"{path}: {len(claims) - len(rows)} entries are no objects.")
    return to_table("claims", "Claims", rows) if rows else None


def headline_tables(workdir: Workdir) -> list[Table]:
    """The headline numbers of finished stages, a table for each kind and method."""
    done = [s for s in workdir.stages if s.part("headline") and s.kind != "evaluate"]
    done.sort(key=lambda s: (FIRST.index(s.kind) if s.kind in FIRST else len(FIRST), s.what))
    tables = []
    for what, stages in groupby(done, key=lambda s: s.what):
        rows = [{"stage": s.name, **_of(s), **s.part("headline")} for s in stages]
        for row in rows:
            if row.get("judged") and "satisfactory" in row:
                row["share satisfactory"] = row["satisfactory"] / row["judged"]
        tables.append(to_table(f"stages-{what.replace(': ', '-')}", what, rows))
    return tables


def _of(stage: StageFiles) -> dict[str, str]:
    """Whose responses were judged: the number means nothing without it."""
    judged = stage.reads.get("data") if stage.kind == "judge" else None
    return {"responses of": judged} if judged else {}


def run_table(workdir: Workdir) -> Table:
    """What was run, and what it cost."""
    rows = []
    for s in workdir.stages:
        cost = s.part("cost")
        rows.append(
            {
                "stage": s.name,
                "what": s.what,
                "state": s.state,
                "reads": ", ".join(dict.fromkeys(s.reads.values())) or None,
                "wall time (s)": cost.get("seconds"),
                "tokens": cost.get("tokens"),
                "FLOPs": cost.get("model_flops"),
                "answers asked for": cost.get("asked"),
                "price": cost.get("cost"),
            }
        )
    return to_table("stages", "Stages", rows)


def to_table(name: str, title: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """A table of rows that may have different fields, without those that none has a value for."""
    flat = [_flat(row) for row in rows]
    columns = tuple(dict.fromkeys(k for row in flat for k, v in row.items() if v is not None))
    return Table(name, title, columns, tuple(tuple(r.get(c) for c in columns) for r in flat), note)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of texts and numbers: an object's fields get columns of their own, a list is one text,
    and an `interval` is joined to the `estimate`."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            out |= {f"{key}: {inner}": v for inner, v in _flat(value).items()}
        elif isinstance(value, list):
            out[key] = "; ".join(map(str, value)) or None
        else:
            out[key] = value
    if "interval" in row and "estimate" in row:
        out["estimate"] = _interval(row["estimate"], row["interval"])
        del out["interval"]
    return out


def _interval(estimate: Any, bounds: Any) -> Any:
    """An Interval where both bounds are numbers, else the estimate alone."""
    pair = isinstance(bounds, list) and len(bounds) == 2
    if pair and all(isinstance(v, int | float) for v in bounds):
        return Interval(estimate, *bounds)
    return estimate
