"""The report of a workdir: one page with all that its stages wrote, which needs nothing else."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from lfjax.errors import UserError
from lfjax.report import responses, results
from lfjax.report.curves import box_plot, forest_plot, learning_curves
from lfjax.report.funnel import funnels, score_plots
from lfjax.report.tables import Interval, Table, compact, duration, number, shown
from lfjax.report.workdir import Workdir, read_workdir
from lfjax.training.logs import write_atomic

PROMPTS, ALL_PROMPTS = 60, 240  # whose responses are shown: of one board, and of all
BLAME_BYTES = 400_000  # of one stage's blame page at most; fewer responses are shown instead
BLAME_PAGES = 8  # of so many stages, the last ones


@dataclass(frozen=True)
class Blame:
    """The blame page of a stage, which the report frames."""

    stage: str
    step: int
    shown: int
    kept: int
    page: str


def write_report(workdir: str | Path) -> Path:
    """Write `WORKDIR/report/index.html` from what is there; its path.

    Stages that are not finished are shown as such; files that cannot be read are named on the page
    and left out.

    Raises: UserError where there is nothing of a run in the folder.
    """
    page = render(read_workdir(workdir))
    path = Path(workdir) / "report" / "index.html"
    write_atomic(path, page)
    return path


def render(workdir: Workdir) -> str:
    """The page: self-contained, every text escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    boards = responses.boards(workdir)
    claims = results.claims_table(workdir)
    parts = dict(
        most_notes=responses.NOTES,
        name=workdir.folder.resolve().name,
        config=json.dumps(workdir.config, indent=2, ensure_ascii=False),
        tiles=tiles(workdir),
        evaluations=results.evaluation_tables(workdir),
        headlines=results.headline_tables(workdir),
        claims=claims,
        forest=claims and claims_plot(claims),
        curves=learning_curves(workdir),
        blame=blame_pages(workdir),
        boards=boards,
        board_prompts=max(5, min(PROMPTS, ALL_PROMPTS // max(1, len(boards)))),
        lengths=[
            (responses.length_table(f"lengths-{i}", b), box_plot(responses.lengths(b), "words"))
            for i, b in enumerate(boards, 1)
        ],
        funnels=funnels(workdir),
        scores=score_plots(workdir),
        run=results.run_table(workdir),
        provenance=provenance(workdir),
    )
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        csv_link=csv_link, latex_link=latex_link, short=short, shown=shown, tone=responses.tone
    )
    # Last, because reading the files above may have found damaged ones.
    return environment.get_template("page.html.jinja").render(**parts, notices=workdir.notices)


def csv_link(table: Table) -> str:
    """The table's CSV as a link that needs no file."""
    return "data:text/csv;charset=utf-8," + quote(table.csv())


def latex_link(table: Table) -> str:
    return "data:application/x-tex;charset=utf-8," + quote(table.latex())


def short(text: str) -> str:
    """A text with its length bounded; what is left out is counted."""
    left = len(text) - responses.CHARACTERS
    return text if left <= 0 else f"{text[: responses.CHARACTERS]} … ({left} characters more)"


def tiles(workdir: Workdir) -> list[tuple[str, str]]:
    """The run in a few numbers."""
    done = [s for s in workdir.stages if s.state == "finished"]
    out = [("stages finished", f"{len(done)} of {len(workdir.stages)}")]
    wanted = (
        ("seconds", "wall time", duration),
        ("tokens", "tokens", compact),
        ("model_flops", "FLOPs", compact),
        ("asked", "answers asked for", number),
        ("cost", "price of answers", number),
    )
    for key, name, form in wanted:
        values = [s.part("cost").get(key) for s in done]
        total = sum(v for v in values if isinstance(v, int | float))
        if total:
            out.append((name, form(total)))
    return out


def provenance(workdir: Workdir) -> list[tuple[str, str]]:
    """With what it was run; where stages differ, which ran with what."""
    ran: dict[str, dict[str, list[str]]] = {}
    for stage in workdir.stages:
        for key, value in stage.part("provenance").items():
            ran.setdefault(key, {}).setdefault(_words(value), []).append(stage.name)
    set_by = {key: workdir.config.get(key) for key in ("model", "data", "seed", "mesh")}
    named = {"model": ("path", "weights"), "data": ("source", "path", "template")}
    for key, fields in named.items():
        if isinstance(set_by[key], dict):
            set_by[key] = {f: v for f, v in set_by[key].items() if f in fields and v}
    return [
        *((key, _words(value)) for key, value in set_by.items() if value not in (None, {})),
        *(
            (key, text if len(values) == 1 else f"{text} ({', '.join(stages)})")
            for key, values in ran.items()
            for text, stages in values.items()
        ),
    ]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return "unknown" if value is None else str(value)


def claims_plot(claims: Table) -> Markup | None:
    """Estimates with their intervals beside their margins; None where no claim has any."""
    rows = [dict(zip(claims.columns, row)) for row in claims.rows]
    rows = [r for r in rows if isinstance(r.get("estimate"), Interval)]
    if not rows:
        return None
    names = [str(r.get("claim")) for r in rows]
    return forest_plot(names, [r["estimate"] for r in rows], [r.get("margin") for r in rows])


def blame_pages(workdir: Workdir) -> list[Blame]:
    """The last page of each training stage that has one."""
    from lfjax.stages.blame import read_table
    from lfjax.stages.blame import render as page_of

    out = []
    for stage in workdir.of_kind("train")[-BLAME_PAGES:]:
        tables = {
            int(p.stem.removeprefix("step-")): p
            for p in (stage.folder / "blame").glob("step-*.parquet")
            if p.stem.removeprefix("step-").isdecimal()
        }
        if not tables:
            continue
        step = max(tables)
        try:
            table = read_table(tables[step])
        except UserError as error:
            workdir.notices.append(str(error))
            continue
        kept, shown = table.num_rows, table.num_rows
        while len(page := page_of(table.slice(0, shown))) > BLAME_BYTES and shown > 1:
            shown //= 2
        out.append(Blame(stage.name, step, shown, kept, page))
    return out
