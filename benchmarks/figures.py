"""Figures of the docs: a file each, the same bytes for the same numbers."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt


def save(folder: Path, figures: dict[str, Callable]) -> None:
    """Write `NAME.svg` for each name and what draws it on an axis."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "lfjax"
    for name, draw in figures.items():
        figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
        draw(axis)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)
