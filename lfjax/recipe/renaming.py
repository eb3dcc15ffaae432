"""Stages of one recipe inside another: a repetition of a lab's recipe among several."""

from typing import Any

from ml_collections import ConfigDict

from lfjax.recipe.blocks import seeded

# Settings that name a stage, and those that name several.
REFERRING = ("path", "init", "kl_to", "model", "gap", "reward", "evaluation", "apart_from", "among")


def renamed(stages: dict[str, ConfigDict], prefix: str) -> dict[str, ConfigDict]:
    """The stages with a prefix to their names, also where they name each other."""

    def walk(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {k: walk(v, k) for k, v in node.items()}
        if isinstance(node, str) and key in REFERRING and node.partition("/")[0] in stages:
            return prefix + node
        return node

    return {f"{prefix}{name}": ConfigDict(walk(stage.to_dict())) for name, stage in stages.items()}


def repeated(stages: dict[str, ConfigDict], k: int, seed: int) -> dict[str, ConfigDict]:
    """The stages of repetition k, all of them with a seed of its own."""
    return {name: seeded(stage, seed) for name, stage in renamed(stages, f"s{k}_").items()}


def in_all(path: str, repetitions: int) -> tuple[str, ...]:
    """What a stage or its output is called in each repetition."""
    return tuple(f"s{k}_{path}" for k in range(repetitions))
