"""How likely a model finds given texts after given contexts, with its training forward.

b rows, t tokens, d model, v vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from lfjax.data.plan import make_plan, rows_of
from lfjax.data.rows import Rows, Segment, Unit, span
from lfjax.data.views import Role
from lfjax.errors import UserError
from lfjax.losses.logprobs import token_logprobs
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import Decoder
from lfjax.models.hf import load_frozen
from lfjax.sharding import BATCH, put
from lfjax.training.logs import progress
from lfjax.training.step import batch_shardings

CHUNK = 128  # tokens of each row whose logits exist at once
SHORTEST_ROW = 512


class Likelihood:
    """Log-probabilities of continuations, many short texts in a row.

    Attributes:
      params: of the decoder, on the mesh's shards, read when they are first needed.

    Args:
      path: of a model directory, whose configuration is `config`.
      rows: scored at once, a multiple of the mesh's batch shards.
      max_tokens: that the model sees at once.
    """

    def __init__(
        self, path: str, config: ModelConfig, mesh: Mesh, *, dtype: str, rows: int, max_tokens: int
    ):
        self.path, self.config, self.mesh, self.dtype = path, config, mesh, dtype
        self.rows, self.max_tokens = rows, max_tokens

    @cached_property
    def params(self) -> Any:
        return load_frozen(self.path, self.config, self.mesh, self.dtype)

    @cached_property
    def _score(self):
        """(params, rows) -> per target, its log-probability and whether it is the likeliest."""
        model, whole = Decoder(self.config, self.dtype), NamedSharding(self.mesh, P())

        def score(params, rows: Rows):
            hidden, head = model.apply(
                {"params": params}, rows.tokens, rows.positions, rows.segment
            )
            softcap = self.config.final_softcap
            logp = token_logprobs(hidden, head, rows.targets, softcap=softcap)
            return logp, likeliest(hidden, head) == rows.targets

        params = jax.tree.map(lambda x: x.sharding, self.params)
        rows = batch_shardings(Rows.empty(1, 1), self.mesh)
        return jax.jit(score, in_shardings=(params, rows), out_shardings=whole)

    def __call__(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], name: str = "likelihoods"
    ) -> list[tuple[float, bool]]:
        """(log-probability, whether it is what greedy decoding gives) of each target after its
        context, in tokens. A context that is too long loses its start.

        Args:
          name: of the line of progress.

        Raises: UserError for a target that is longer than what the model sees.
        """
        units = []
        for context, target in pairs:
            if len(target) > self.max_tokens:
                raise UserError(
                    f"a text to be scored has {len(target)} tokens; the model sees "
                    f"max_tokens={self.max_tokens}."
                )
            # The last token is predicted only, so that one more than the model sees fits.
            ids = np.asarray([*context, *target][-self.max_tokens - 1 :], np.int32)
            units.append(Unit(0, (Segment(ids, len(ids) - len(target), Role.PLAIN, 1.0, None),)))
        if not units:
            return []
        lengths = np.array([u.length for u in units])
        row_tokens = max(SHORTEST_ROW, 1 << int(lengths.max() - 1).bit_length())
        plan = make_plan(
            lengths, row_tokens=row_tokens, seed=0, batch_rows=self.rows, multiple=self.rows
        )
        out: list[Any] = [None] * len(units)
        with (
            progress(name, done=0, total=len(units), unit="text") as bar,
            jax.set_mesh(self.mesh),
        ):
            for step in range(plan.steps):
                rows = put(rows_of(plan, step, units, "token"), self.mesh, P(BATCH))
                logp, best = jax.device_get(self._score(self.params, rows))
                part = slice(plan.first[step], plan.first[step + 1])
                for u, row, start in zip(plan.unit[part], plan.row[part], plan.offset[part]):
                    at = start + span(units[u].segments[0])
                    out[u] = float(logp[row, at].sum(dtype=np.float64)), bool(best[row, at].all())
                    bar.update(1)
        return out


def likeliest(hidden: Float[Array, "b t d"], head: Float[Array, "v d"]) -> Int[Array, "b t"]:
    """The token of the largest logit, in chunks of time: no `[b, t, v]` array exists. (A soft cap
    changes no order.)"""
    b, t, d = hidden.shape
    chunks = jnp.moveaxis(hidden.reshape(b, t // CHUNK, CHUNK, d), 1, 0)

    def one(chunk):
        logits = jnp.einsum("bcd,vd->bcv", chunk, head, preferred_element_type=jnp.float32)
        return logits.argmax(axis=-1)

    return jnp.moveaxis(lax.map(one, chunks), 0, 1).reshape(b, t)
