"""Make a page of token blame again from its table, after the page's design or the reader's needs
have changed.

    python -m lfjax.report.blame WORKDIR/cut/blame/step-120.parquet [PAGE.html]

Without a second path the page is written beside the table.
"""

import sys
from pathlib import Path

from lfjax.errors import UserError
from lfjax.stages.blame import read_table, render
from lfjax.training.logs import write_atomic


def main(arguments: list[str]) -> Path:
    """Write the page; its path. Raises: UserError for wrong arguments or a file that is no such
    table."""
    if not 1 <= len(arguments) <= 2 or any(a.startswith("-") for a in arguments):
        raise UserError("usage: python -m lfjax.report.blame STAGE/blame/step-N.parquet [PAGE]")
    table = Path(arguments[0])
    page = Path(arguments[1]) if len(arguments) == 2 else table.with_suffix(".html")
    write_atomic(page, render(read_table(table)))
    return page


def run() -> None:
    """The door: a UserError ends the program with its message alone and status 2."""
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        print(f"lfjax: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
