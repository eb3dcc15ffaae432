"""The decoder: RMSNorm, rotary positions, grouped-query attention, gated MLP; layers scanned over
stacked parameters.

b rows, t tokens, d model, n heads, k kv heads, h head size, f mlp, v vocabulary.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from lfjax.errors import UserError, nearest
from lfjax.losses.logprobs import CHUNK, token_logprobs
from lfjax.models.attention import attention
from lfjax.models.config import ModelConfig
from lfjax.sharding import BATCH, constrain

# name -> what the backward pass finds stored; None stores everything
REMAT = {
    "none": None,
    "context": jax.checkpoint_policies.save_only_these_names("context"),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Table(nn.Module):
    """An embedding table, `[v, d]` in float32."""

    rows: int
    columns: int

    @nn.compact
    def __call__(self) -> Float[Array, "v d"]:
        return self.param(
            "embedding", nn.initializers.normal(0.02), (self.rows, self.columns), jnp.float32
        )


class Projection(nn.Module):
    """x · kernel, computed in x's dtype."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
        kernel = self.param(
            "kernel", nn.initializers.normal(0.02), (x.shape[-1], self.features), jnp.float32
        )
        return x @ kernel.astype(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) · scale, in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y.astype(x.dtype) * scale.astype(x.dtype)).astype(x.dtype)


def rotary_angles(
    positions: Int[Array, "b t"], head_dim: int, theta: float
) -> tuple[Float[Array, "b t 1 h2"], Float[Array, "b t 1 h2"]]:
    """cos and sin of position · θ^(-2i/h), in float32."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "b t n h"], cos, sin) -> Float[Array, "b t n h"]:
    """Rotate the pairs (i, i + h/2), which is Hugging Face's layout."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], cos, sin, segment: Int[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        c = self.config
        b, t, _ = x.shape

        def heads(name, count):
            y = Projection(count * c.head_dim, name=name)(x).reshape(b, t, count, c.head_dim)
            return constrain(y, BATCH, None, "tensor", None)

        q, k, v = heads("q", c.n_heads), heads("k", c.n_kv_heads), heads("v", c.n_kv_heads)
        out = attention(rotate(q, cos, sin), rotate(k, cos, sin), v, segment)
        out = checkpoint_name(out, "context")
        return Projection(c.d_model, name="o")(out.reshape(b, t, c.n_heads * c.head_dim))


class MLP(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        gate = Projection(self.config.d_mlp, name="gate")(x)
        up = Projection(self.config.d_mlp, name="up")(x)
        y = constrain(nn.silu(gate) * up, BATCH, None, "tensor")
        return Projection(self.config.d_model, name="down")(y)


class Block(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x, cos, sin, segment):
        c = self.config
        x = x + Attention(c, name="attn")(
            RMSNorm(c.norm_eps, name="attn_norm")(x), cos, sin, segment
        )
        x = x + MLP(c, name="mlp")(RMSNorm(c.norm_eps, name="mlp_norm")(x))
        return constrain(x, BATCH, None, None), None


class Decoder(nn.Module):
    """Tokens to final hidden states and the output embedding; logits are left to `token_logprobs`.

    Attributes:
      dtype: of activations and matrix products; parameters are float32.
      remat: a name of `REMAT`.
    """

    config: ModelConfig
    dtype: str = "float32"
    remat: str = "none"

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], positions: Int[Array, "b t"], segment: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "v d"]]:
        c = self.config
        for name, table in (("remat", REMAT), ("dtype", DTYPES)):
            if getattr(self, name) not in table:
                raise UserError(
                    f"model.{name}: unknown '{getattr(self, name)}'. "
                    f"{nearest(getattr(self, name), table)}"
                )
        dtype = DTYPES[self.dtype]
        embedding = Table(c.vocab_size, c.d_model, name="embed")()
        head = embedding if c.tied else Table(c.vocab_size, c.d_model, name="head")()
        # Gathered over fsdp once: a lookup in a table whose columns and rows are both split would
        # be too.
        x = jnp.take(constrain(embedding.astype(dtype), "tensor", None), tokens, axis=0)
        x = constrain(x, BATCH, None, None)
        cos, sin = rotary_angles(positions, c.head_dim, c.rope_theta)
        block = Block
        if REMAT[self.remat] is not None:
            block = nn.remat(
                Block, policy=REMAT[self.remat], prevent_cse=False
            )  # scan keeps CSE out by itself
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.n_layers,
        )
        x, _ = layers(c, name="layers")(x, cos, sin, segment)
        return RMSNorm(c.norm_eps, name="final_norm")(x), head


def abstract_params(config: ModelConfig):
    """The parameter tree as ShapeDtypeStructs: nothing is allocated."""
    return jax.eval_shape(partial(init_params, config), jax.random.key(0))


def init_params(config: ModelConfig, key: Array):
    """Random parameters, float32."""
    dummy = jnp.zeros((1, 2), jnp.int32)
    return Decoder(config).init(key, dummy, dummy, dummy)["params"]


def logprob_fn(model: Decoder, *, chunk: int = CHUNK) -> Callable[..., Float[Array, "b t"]]:
    """(params, rows) -> log-probability of every target, float32."""

    def logprobs(params, rows):
        hidden, head = model.apply({"params": params}, rows.tokens, rows.positions, rows.segment)
        return token_logprobs(hidden, head, rows.targets, chunk=chunk)

    return logprobs
