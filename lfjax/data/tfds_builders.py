"""Any source as a TFDS dataset: a published set is prepared once from its original files, and any
number of runs and hosts learn from the result.

    python -m lfjax.data.tfds_builders --source shepherd --path human_data_for_model.jsonl \
        --data_dir gs://bucket/tfds
    python -m lfjax.data.tfds_builders --source defacto --path train=train.jsonl test=test.jsonl \
        --data_dir data --options '{"request": "Summarize this."}'

A file without a split is the split `train`, which is the one that a recipe learns from.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax

from lfjax.data.load import safe, told
from lfjax.data.sources import SOURCES, load
from lfjax.data.tfds_adapter import dataset_path, wait_tfds, write_tfds
from lfjax.errors import UserError


def prepare(
    source: str,
    files: Mapping[str, str],
    data_dir: str,
    *,
    name: str = "",
    options: dict[str, Any] | None = None,
    on_error: str = "stop",
) -> str:
    """Read files of a source, write their Records as a TFDS dataset; its directory.

    Args:
      files: by split.
      data_dir, name: as for `write_tfds`; the name is the source's unless another is given.
      options, on_error: as for `load`.

    Process 0 reads and writes; the others, which need not have the files, wait for the dataset.

    Raises: UserError as `load` and `write_tfds` do.
    """
    name = name or source
    if jax.process_index():
        path = dataset_path(data_dir, name)
        wait_tfds(path)
        return path
    splits = {}
    for split, file in files.items():
        loaded = load(file, source, options=options, on_error=on_error)
        splits[split] = loaded.records
        print(f"{split}: {len(loaded.records)} records, left out: {told(loaded.dropped)}")
        for message in loaded.skipped:
            print(f"  malformed, left out: {safe(message)}")
    return write_tfds(splits, data_dir, name=name)


def by_split(paths: list[str]) -> dict[str, str]:
    """Files by split from `SPLIT=FILE`s. Raises: UserError for a split that is given twice."""
    files: dict[str, str] = {}
    for path in paths:
        named = re.fullmatch(r"(\w+)=(.+)", path)
        split, file = named.groups() if named else ("train", path)
        if split in files:
            raise UserError(
                f"--path: '{files[split]}' and '{file}' are both the split {split}; prepare each "
                "under a --name of its own and learn from a mixture."
            )
        files[split] = file
    return files


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--path", required=True, nargs="+", metavar="[SPLIT=]FILE")
    parser.add_argument("--data_dir", required=True, help="a folder or a bucket (gs://…)")
    parser.add_argument("--name", default="", help="of the dataset; the source's by default")
    parser.add_argument("--options", default="{}", help="of the source, as a JSON object")
    parser.add_argument("--on_error", default="stop", help="or skip: count malformed rows")
    args = parser.parse_args(argv)
    try:
        try:
            options = json.loads(args.options)
        except json.JSONDecodeError as error:
            raise UserError(f"--options: not JSON ({error.msg}): {args.options}") from None
        if not isinstance(options, dict):
            raise UserError(f"--options: {args.options}, expected a JSON object.")
        how = dict(name=args.name, options=options, on_error=args.on_error)
        path = prepare(args.source, by_split(args.path), args.data_dir, **how)
    except UserError as error:
        print(f"lfjax: {safe(str(error), lines=True)}", file=sys.stderr)
        sys.exit(2)
    print(f"{path}: learn from it with")
    print(f"  --config.data.source=records --config.data.path={path}")


if __name__ == "__main__":
    main()
