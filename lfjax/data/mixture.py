"""Mixtures: records of several data blocks, each with its share, in one order.

load_mixture({
    "chat": {"path": "tulu.jsonl", "source": "messages", "weight": 3.0},
    "summaries": {"path": "train.jsonl", "source": "defacto", "weight": 1.0},
}, seed=42)

A config names such blocks in `data.mixture`, or a JSON file of them in `data.path`, where
`data.source` is `mixture`.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

from lfjax.data.records import Record
from lfjax.data.sources import Loaded, load
from lfjax.errors import UserError, nearest

MIXTURE = "mixture"  # stands where a config names a source
# field of a block -> (type, its name in messages)
BLOCK = {
    "path": (str, "a text"),
    "source": (str, "a text"),
    "weight": (Real, "a number"),
    "options": (Mapping, "an object"),
    "downsample": (Real, "a number"),
}
NEEDED = ("path", "source", "weight")


# --- what a config says of a mixture ----------------------------------------------------------


def data_inputs(data) -> dict[str, str]:
    """What a config's data block reads, by role: its file, and for a mixture the file or stage of
    every block as `data/NAME`.

    Raises: UserError for a path that is not set, or a mixture that cannot be read.
    """
    if data.source == MIXTURE and data.mixture:
        if data.path is not None:
            raise UserError(
                f"data.path={data.path}: this recipe's mixture has a path for each block, "
                f"--config.data.mixture.{next(iter(data.mixture))}.path=FILE; or set data.source "
                "as well, to learn from that file alone."
            )
        paths = {name: block.path for name, block in data.mixture.items()}
        for name, path in paths.items():
            if path is None:
                raise UserError(
                    f"data.mixture.{name}.path is not set: give a file of records, "
                    f"--config.data.mixture.{name}.path=FILE."
                )
        return {f"data/{name}": path for name, path in paths.items()}
    if data.path is None:
        raise UserError("data.path is not set: give a file of records, --config.data.path=FILE.")
    blocks = read_mixture(data.path) if data.source == MIXTURE else {}
    return {"data": data.path, **{f"data/{name}": b["path"] for name, b in blocks.items()}}


def mixture_blocks(data, paths: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The blocks of a config whose source is `mixture`, for `load_mixture`.

    Args:
      paths: by the roles of `data_inputs`, where each was found.
    """
    blocks = data.mixture.to_dict() or read_mixture(paths["data"])
    return {name: {**block, "path": paths[f"data/{name}"]} for name, block in blocks.items()}


def read_mixture(path: str) -> dict[str, dict[str, Any]]:
    """Blocks by name out of a JSON file; their paths are relative to its folder.

    Raises: UserError if there is no such file, or it holds something else.
    """

    def once(pairs):
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{path}: '{name}' stands there twice.")
        return dict(pairs)

    try:
        blocks = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from None
    if not isinstance(blocks, dict) or not all(isinstance(b, dict) for b in blocks.values()):
        raise UserError(
            f"{path}: expected an object of blocks, such as "
            '{"chat": {"path": "chat.jsonl", "source": "messages", "weight": 3}}.'
        )
    for name, block in blocks.items():
        check_block(f"{path}: block '{name}'", block)
        if "://" not in block["path"]:
            block["path"] = str(Path(path).parent / block["path"])
    return blocks


def check_block(where: str, block: Mapping[str, Any], needed: Sequence[str] = NEEDED) -> None:
    """Raises: UserError for a field that is missing, unknown, or of another type."""
    for field in block:
        if field not in BLOCK:
            raise UserError(f"{where}: unknown field '{field}'. {nearest(field, BLOCK)}")
    for field, (kind, expected) in BLOCK.items():
        value = block.get(field)
        if value is None:
            if field in needed:
                raise UserError(f"{where}: field '{field}' is missing; set it.")
        elif not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(
                f"{where}: field '{field}' is {type(value).__name__}, expected {expected}."
            )


# --- records ----------------------------------------------------------------------------------


def load_mixture(
    blocks: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    examples: int = 0,
    downsample: float = -1.0,
    on_error: str = "stop",
) -> Loaded:
    """Load every block and mix what they hold.

    Args:
      blocks: by a name of one's own, each `path`, `source` and `weight`, perhaps the source's
        `options` and a `downsample` of its satisfactory records (as `load` does).
      seed: of the draws; the same one gives the same records in the same order.
      examples: how many records in all; 0 for as many as the shares allow (`mix`).
      downsample: of blocks that have none of their own.
      on_error: `stop` or `skip`, as for `load`.

    The names are prefixed to ids, sources, reasons and messages (`chat/17` of `chat/messages`), so
    that ids differ and counts are told by block.

    Raises: UserError for a field of a block that is missing or wrong, and, naming the block, as
    `load` and `mix` do.
    """
    out, parts = Loaded([]), {}
    for name, block in blocks.items():
        where = f"data block '{name}'"
        check_block(where, block)
        own = block.get("downsample")
        try:
            loaded = load(
                block["path"],
                block["source"],
                options=dict(block.get("options") or {}),
                downsample=downsample if own is None else float(own),
                seed=seed,
                on_error=on_error,
            )
        except UserError as error:
            raise type(error)(f"{where}: {error}") from None
        parts[name] = [replace(r, source=f"{name}/{r.source}") for r in loaded.records]
        out.dropped += {f"{name}: {reason}": n for reason, n in loaded.dropped.items()}
        out.skipped += [f"{name}: {message}" for message in loaded.skipped]
    weights = {name: block["weight"] for name, block in blocks.items()}
    out.records = mix(parts, weights, seed=seed, examples=examples)
    for name, records in parts.items():
        taken = sum(r.id.startswith(f"{name}/") for r in out.records)
        if taken < len(records):
            out.dropped[f"{name}: beyond its share"] += len(records) - taken
    return out


def mix(
    parts: Mapping[str, Sequence[Record]],
    weights: Mapping[str, float | int],
    *,
    seed: int,
    examples: int = 0,
) -> list[Record]:
    """Records of all parts in the proportion of their weights, none of them twice.

    Each part gives its share of `examples`, drawn without replacement and kept in its own order.
    Without `examples` the total is the largest of which no part's share exceeds what it has. The
    parts are interleaved evenly: at every point of the result each is about at its share.

    Raises: UserError for a weight that is not positive, or for more examples than a part has.
    """
    if not parts or any("/" in name or not name for name in parts):
        raise UserError(f"mixture: names {list(parts)}, expected at least one, none with a '/'.")
    for name in parts:
        if not 0 < weights[name] < math.inf:
            raise UserError(
                f"mixture: the weight of '{name}' is {weights[name]}, expected a positive number; "
                "leave the block out instead."
            )
    total = sum(weights[name] for name in parts)
    share = {name: weights[name] / total for name in parts}
    counts = (
        _rounded(share, examples)
        if examples
        else _largest({name: len(part) for name, part in parts.items()}, share)
    )
    placed = []
    for order, (name, part) in enumerate(parts.items()):
        count = counts[name]
        if count > len(part):
            raise UserError(
                f"mixture: '{name}' has {len(part)} records, its share of {examples} examples is "
                f"{count}; lower the weight or the number of examples, or take 0 for the most that "
                "the shares allow."
            )
        # A generator of its own: other blocks do not change this draw, nor is it theirs.
        chosen = sorted(random.Random(f"{seed}/{name}").sample(range(len(part)), count))
        for k, index in enumerate(chosen):
            record = replace(part[index], id=f"{name}/{part[index].id}")
            placed.append(((k + 0.5) / count, order, record))
    return [record for _, _, record in sorted(placed, key=lambda item: item[:2])]


def _largest(lengths: dict[str, int], share: dict[str, float]) -> dict[str, int]:
    """The counts of the largest total of which no share exceeds its part."""
    examples = min(int(lengths[name] / share[name] + 1e-9) for name in lengths)
    while examples and any(n > lengths[name] for name, n in _rounded(share, examples).items()):
        examples -= 1  # rounding asked one part for a record more than it has
    return _rounded(share, examples)


def _rounded(share: dict[str, float], examples: int) -> dict[str, int]:
    """Whole counts that add up to `examples`: the largest remainders are rounded up."""
    exact = {name: s * examples for name, s in share.items()}
    counts = {name: int(x + 1e-9) for name, x in exact.items()}
    rest = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in rest[: examples - sum(counts.values())]:
        counts[name] += 1
    return counts
