"""Tables of a report: shown on the page, and taken along as CSV (numbers as they were
measured) or LaTeX (as shown)."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

MISSING = "–"
LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "\n": " ",
}


class Interval(NamedTuple):
    """An estimate with the bounds of its interval."""

    estimate: int | float | None
    low: int | float
    high: int | float


@dataclass(frozen=True)
class Table:
    """Rows of texts, numbers, Intervals and None (which is shown as a dash).

    Attributes:
      name: of the files that it is exported to.
      title: shown above it, unescaped text.
      note: a sentence below it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""

    def cells(self) -> list[list[str]]:
        """What is shown."""
        return [[shown(v, c) for v, c in zip(row, self.columns)] for row in self.rows]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which are aligned on the right."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(isinstance(v, int | float | Interval) for v in values)

    def csv(self) -> str:
        """RFC 4180, numbers unrounded, an interval as three columns, what is missing empty."""
        wide = [
            any(isinstance(r[i], Interval) for r in self.rows) for i in range(len(self.columns))
        ]
        head = [
            name
            for column, w in zip(self.columns, wide)
            for name in ((column, f"{column} low", f"{column} high") if w else (column,))
        ]
        out = io.StringIO()
        write = csv.writer(out).writerow
        write(head)
        for row in self.rows:
            write([cell for value, w in zip(row, wide) for cell in _parts(value, w)])
        return out.getvalue()

    def latex(self) -> str:
        """A `tabular` of the package booktabs, with what is shown on the page."""
        align = "".join("r" if self.numeric(i) else "l" for i in range(len(self.columns)))
        lines = [" & ".join(map(latex_text, row)) + r" \\" for row in [self.columns, *self.cells()]]
        body = [lines[0], r"\midrule", *lines[1:]]
        return "\n".join(
            [rf"\begin{{tabular}}{{{align}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
        )


def latex_text(text: str) -> str:
    """Text in which no character commands LaTeX."""
    return "".join(LATEX.get(c, c) for c in text)


def shown(value: Any, column: str = "") -> str:
    """A value for people; a column named in `UNITS` has its own way."""
    if value is None:
        return MISSING
    if isinstance(value, float) and not math.isfinite(value):
        return MISSING if math.isnan(value) else str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Interval):
        bounds = f"[{value.low:.3g}, {value.high:.3g}]"
        return bounds if value.estimate is None else f"{value.estimate:.3g} {bounds}"
    if isinstance(value, int | float):
        return UNITS.get(column, number)(value)
    return json.dumps(value, ensure_ascii=False)


def number(value: int | float) -> str:
    """Four digits of a fraction, all of an integer."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def duration(seconds: int | float) -> str:
    """Hours, minutes and seconds, the two largest that count."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def compact(value: int | float) -> str:
    """Three digits and a letter: 1.71e11 is 171 G."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {letter}"
    return f"{value:.3g}"


def percent(share: int | float) -> str:
    return f"{100 * share:.1f} %"


UNITS: dict[str, Callable[[int | float], str]] = {
    "wall time (s)": duration,
    "FLOPs": compact,
    "tokens": compact,
    "share satisfactory": percent,
    "share cut at the limit": percent,
}


def _parts(value: Any, wide: bool) -> tuple:
    """The cells of a value in a file."""
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    if not wide:
        return (value,)
    return tuple(value) if isinstance(value, Interval) else (value, None, None)
