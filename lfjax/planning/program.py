"""A device program to be compiled, and its arguments without their values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from lfjax.sharding import tree_shardings


@dataclass(frozen=True)
class Program:
    """One compiled function of a stage.

    Attributes:
      stage, name: whose, and what it does.
      about: its shapes, for the reader.
      function: a jitted function.
      args: its arguments as ShapeDtypeStructs with shardings.
      parts: what of the arguments is the parameters, the optimizer's state, …, by name.
      tokens: that one call goes over, or draws.
      model_flops: that the arithmetic of one call needs, over all chips.
      config: of the stage.
      mesh: that it is compiled for.
      resident: what else the stage has on the devices meanwhile, by name.
    """

    stage: str
    name: str
    about: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    parts: dict[str, Any]
    tokens: int
    model_flops: float
    config: Any
    mesh: Mesh
    resident: dict[str, Any] = field(default_factory=dict)


def placed(tree, shardings):
    """ShapeDtypeStructs of the shapes of a tree, with one sharding or a tree of them."""
    if isinstance(shardings, NamedSharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def split(tree, mesh: Mesh, *rules):
    """The same, with the shardings of a rules table."""
    return placed(tree, tree_shardings(tree, mesh, *rules))
