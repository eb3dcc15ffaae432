"""Mixtures: records of several data blocks, each with its share, in one order.

load_mixture({
    "chat": {"path": "tulu.jsonl", "source": "messages", "weight": 3.0},
    "summaries": {"path": "train.jsonl", "source": "defacto", "weight": 1.0},
}, seed=42)
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lfjax.data.records import Record
from lfjax.data.sources import Loaded, load
from lfjax.errors import UserError, nearest

BLOCK = ("path", "source", "weight", "options", "downsample")


def load_mixture(
    blocks: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    examples: int = 0,
    on_error: str = "stop",
) -> Loaded:
    """Load every block and mix what they hold.

    Args:
      blocks: by a name of one's own, each `path`, `source` and `weight`, perhaps the source's
        `options` and a `downsample` of its satisfactory records (as `load` does).
      seed: of the draws; the same one gives the same records in the same order.
      examples: how many records in all; 0 for as many as the shares allow (`mix`).
      on_error: `stop` or `skip`, as for `load`.

    The names are prefixed to ids, reasons and messages (`chat/17`), so that ids differ.

    Raises: UserError for a field of a block that is missing or unknown, and as `load` and `mix` do.
    """
    out, parts = Loaded([]), {}
    for name, block in blocks.items():
        where = f"data block '{name}'"
        for field in block:
            if field not in BLOCK:
                raise UserError(f"{where}: unknown field '{field}'. {nearest(field, BLOCK)}")
        for field in BLOCK[:3]:
            if block.get(field) is None:
                raise UserError(f"{where}: field '{field}' is missing; set it.")
        loaded = load(
            block["path"],
            block["source"],
            options=dict(block.get("options") or {}),
            downsample=block.get("downsample", -1.0),
            seed=seed,
            on_error=on_error,
        )
        parts[name] = loaded.records
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
        if not weights[name] > 0:
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
