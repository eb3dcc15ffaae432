"""Write the report of a workdir: WORKDIR/report/index.html, one page that needs no network.

    python -m lfjax.report --workdir runs/demo

It may be written while a run is under way, and again.
"""

import argparse
import sys

from lfjax.errors import UserError


def main(arguments: list[str]) -> None:
    """Write the page and say where it is. Raises: UserError where there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="python -m lfjax.report", description=__doc__.partition(":")[0] + "."
    )
    parser.add_argument("--workdir", required=True, help="folder of a run of lfjax.main")
    from lfjax.report.page import write_report

    print(write_report(parser.parse_args(arguments).workdir))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"lfjax: {error}", file=sys.stderr)
        sys.exit(2)
