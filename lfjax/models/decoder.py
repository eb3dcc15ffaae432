"""The decoder: RMSNorm, rotary positions, grouped-query attention, gated MLP.

In training the layers are scanned over stacked parameters, what differs between them over arrays of
the same length. In generation (`Unrolled`) they follow one another, each with parameters and an
attention of its own.

l layers, b rows, t tokens, d model, n heads, k kv heads, h head size, f mlp, v vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lfjax.errors import UserError, nearest
from lfjax.losses.logprobs import CHUNK, token_logprobs
from lfjax.models.config import ModelConfig, RopeScaling
from lfjax.models.kernels import CONTEXT, attention_of
from lfjax.models.lora import LoraConfig
from lfjax.models.quantize import product
from lfjax.sharding import BATCH, HEADS, STREAM, constrain

# name -> what the backward pass finds stored; None stores everything
REMAT = {
    "none": None,
    "context": jax.checkpoint_policies.save_only_these_names(CONTEXT),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": partial(nn.gelu, approximate=True)}
EVERYTHING = 2**30  # the window of a layer that has none, in a model where others have one


@jax.custom_vjp
def _in_turn(x, kernel):
    """Both as they are, but the gradients of both at one time: the compiler would rather do those
    of kernels last, and keep what they need until then."""
    return x, kernel


_in_turn.defvjp(
    lambda x, kernel: ((x, kernel), None),
    lambda _, gradients: jax.lax.optimization_barrier(gradients),
)


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
    """x · kernel, computed in x's dtype, plus an adapter where `lora` names this projection. The
    kernel may be quantised (`lfjax.models.quantize`)."""

    features: int
    lora: LoraConfig | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape, jnp.float32)
        if self.lora is None:  # with adapters, kernels are frozen and have no gradient
            x, kernel = _in_turn(x, kernel)
        y = product(x, kernel)
        if self.lora is None or "/".join(self.path[-2:]) not in self.lora.targets:
            return y
        a = self.variable("lora", "a", self.draw, (shape[0], self.lora.rank))
        b = self.variable("lora", "b", jnp.zeros, (self.lora.rank, shape[1]))
        if self.lora.dropout and self.has_rng("dropout"):
            x = nn.Dropout(self.lora.dropout, deterministic=False)(x)
        return y + (x @ a.value.astype(x.dtype)) @ b.value.astype(x.dtype) * self.lora.scale

    def draw(self, shape: tuple[int, int]) -> Float[Array, "i r"]:
        """U(-1/√i, 1/√i), which is what peft draws."""
        bound = shape[0] ** -0.5
        return jax.random.uniform(self.make_rng("params"), shape, jnp.float32, -bound, bound)


class RMSNorm(nn.Module):
    """x / rms(x) · scale, in float32 up to the product; with `plus_one`, x / rms(x) · (1 + scale),
    all of it in float32."""

    eps: float
    plus_one: bool

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        start = nn.initializers.zeros if self.plus_one else nn.initializers.ones
        scale = self.param("scale", start, (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        if self.plus_one:
            return (y * (1 + scale)).astype(x.dtype)
        return (y.astype(x.dtype) * scale.astype(x.dtype)).astype(x.dtype)


def layer_windows(config: ModelConfig) -> Int[Array, "l"] | None:
    """Each layer's window, `EVERYTHING` where it has none; None where no layer has one."""
    return jnp.array([w or EVERYTHING for w in config.windows]) if config.windows else None


def rotary_frequencies(
    theta: float, head_dim: int, scaling: RopeScaling | None = None
) -> Float[np.ndarray, "h2"]:
    """Radians a position: θ^(-2i/h), or less where they are scaled; float32."""
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is not None:
        share = 0.0  # of the original frequency that is kept
        if scaling.kind == "llama3":
            turns = scaling.original * frequency / (2 * np.pi)
            share = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
        frequency *= share + (1 - share) / scaling.factor
    return frequency.astype(np.float32)


def rotary_angles(
    positions: Int[Array, "b t"], config: ModelConfig
) -> tuple[Float[Array, "r b t 1 h2"], Float[Array, "r b t 1 h2"]]:
    """cos and sin of position · frequency in float32, `[0]` for layers without a window, `[-1]` for
    those with one."""
    c = config
    frequency = [rotary_frequencies(c.rope_theta, c.head_dim, c.rope_scaling)]
    if c.local_rope_theta is not None:
        frequency.append(rotary_frequencies(c.local_rope_theta, c.head_dim))
    angle = (
        positions[:, :, None, None].astype(jnp.float32) * np.stack(frequency)[:, None, None, None]
    )
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "b t n h"], cos, sin) -> Float[Array, "b t n h"]:
    """Rotate the pairs (i, i + h/2), which is Hugging Face's layout."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def norm_of(config: ModelConfig, name: str) -> RMSNorm:
    return RMSNorm(config.norm_eps, config.norm_plus_one, name=name)


def attend_only(attention: Callable) -> Callable:
    """Attention of which nothing is kept for later tokens."""
    return lambda *args, **how: (attention(*args, **how), None)


class Attention(nn.Module):
    """Returns the output and what `attend`, called as `attention` is, returned with it."""

    config: ModelConfig
    lora: LoraConfig | None
    rows: tuple[str, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], cos, sin, segment: Int[Array, "b t"], window, attend
    ) -> tuple[Float[Array, "b t d"], Any]:
        c = self.config
        b, t, _ = x.shape

        def heads(name, count):
            size = count * c.head_dim
            y = Projection(size, self.lora, name=name)(x)
            if c.qkv_bias:
                bias = self.param(f"{name}_bias", nn.initializers.zeros, (size,), jnp.float32)
                y += bias.astype(y.dtype)
            y = constrain(y, self.rows, "seq", "tensor")  # a product that gathers no kernel
            return constrain(y.reshape(b, t, count, c.head_dim), BATCH, None, HEADS, None)

        q, k, v = heads("q", c.n_heads), heads("k", c.n_kv_heads), heads("v", c.n_kv_heads)
        if c.qk_norm:
            q, k = norm_of(c, "q_norm")(q), norm_of(c, "k_norm")(k)
        scale = None if c.query_scalar is None else c.query_scalar**-0.5
        how = dict(window=window, scale=scale, softcap=c.attn_softcap)
        out, kept = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, segment, **how)
        out = out.reshape(b, t, c.n_heads * c.head_dim)
        out = constrain(out, self.rows, "seq", "tensor")
        return Projection(c.d_model, self.lora, name="o")(out), kept


class MLP(nn.Module):
    config: ModelConfig
    lora: LoraConfig | None
    rows: tuple[str, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        gate = Projection(self.config.d_mlp, self.lora, name="gate")(x)
        up = Projection(self.config.d_mlp, self.lora, name="up")(x)
        y = constrain(ACTIVATIONS[self.config.activation](gate) * up, self.rows, "seq", "tensor")
        return Projection(self.config.d_model, self.lora, name="down")(y)


class Block(nn.Module):
    """One layer; a step of a scan over layers, so that it returns a pair."""

    config: ModelConfig
    lora: LoraConfig | None = None
    rows: tuple[str, ...] = BATCH
    attention: str = "auto"

    @nn.compact
    def __call__(self, x, cos, sin, segment, window, attend=None):
        c, rest = self.config, (self.config, self.lora, self.rows)
        attend = attend or attend_only(attention_of(self.attention, c))
        table = 0 if window is None else -1 * (window < EVERYTHING)

        def whole(y):  # before products over `tensor`: else kernels would be gathered for them
            return constrain(y, self.rows, "seq", None) if splits_rows(self.rows) else y

        def split(y):
            return between(y, self.rows) if splits_rows(self.rows) else y

        y = whole(norm_of(c, "attn_norm")(x))
        y, kept = Attention(*rest, name="attn")(y, cos[table], sin[table], segment, window, attend)
        y = split(y)
        x = x + (norm_of(c, "attn_post_norm")(y) if c.post_norms else y)
        y = split(MLP(*rest, name="mlp")(whole(norm_of(c, "mlp_norm")(x))))
        x = x + (norm_of(c, "mlp_post_norm")(y) if c.post_norms else y)
        return between(x, self.rows), kept


def splits_rows(rows: tuple[str, ...]) -> bool:
    """Whether `fsdp` splits activations by rows, as in training; in decoding it splits sums."""
    return "fsdp" in rows


def between(x: Float[Array, "b t d"], rows: tuple[str, ...]) -> Float[Array, "b t d"]:
    """An activation as it lies between the parts of a layer."""
    return constrain(x, rows, STREAM if splits_rows(rows) else "seq", None)


def embedded(
    tokens: Int[Array, "b t"], config: ModelConfig, dtype, rows: tuple[str, ...]
) -> tuple[Float[Array, "b t d"], Float[Array, "v d"]]:
    """What the first layer reads, and the output embedding. Called within a module."""
    embedding = Table(config.vocab_size, config.d_model, name="embed")()
    head = embedding
    if not config.tied:
        head = Table(config.vocab_size, config.d_model, name="head")()
    # Where fsdp splits the rows of activations, each of its devices needs whole columns, and the
    # table is gathered over fsdp once; elsewhere only what was looked up is.
    columns = None if splits_rows(rows) else "fsdp"
    x = jnp.take(constrain(embedding.astype(dtype), "tensor", columns), tokens, axis=0)
    x = between(constrain(x, rows, "seq", columns), rows)
    if config.scale_embedding:
        x *= jnp.asarray(config.d_model**0.5, dtype)  # rounded, as these models were trained
    return x, head


class Decoder(nn.Module):
    """Tokens to final hidden states and the output embedding; logits and their soft cap are left to
    `token_logprobs`.

    Attributes:
      dtype: of activations and matrix products; parameters are float32.
      remat: a name of `REMAT`.
      lora: adapters, in the collection `lora`; their dropout is on where a `dropout` rng is given.
      attention: how it is computed, a name of `kernels.NAMES`.
    """

    config: ModelConfig
    dtype: str = "float32"
    remat: str = "none"
    lora: LoraConfig | None = None
    attention: str = "auto"

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], positions: Int[Array, "b t"], segment: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "v d"]]:
        c = self.config
        if self.remat not in REMAT:
            raise UserError(f"model.remat: unknown '{self.remat}'. {nearest(self.remat, REMAT)}")
        x, head = embedded(tokens, c, dtype_of(self.dtype), BATCH)
        cos, sin = rotary_angles(positions, c)
        block = Block
        if REMAT[self.remat] is not None:
            block = nn.remat(
                Block, policy=REMAT[self.remat], prevent_cse=False
            )  # scan keeps CSE out by itself
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),
            length=c.n_layers,
        )
        layers = layers(c, self.lora, attention=self.attention, name="layers")
        x, _ = layers(x, cos, sin, segment, layer_windows(c))
        return norm_of(c, "final_norm")(x), head


class Unrolled(nn.Module):
    """The decoder layer by layer, over parameters of `unstacked`.

    Attributes:
      dtype: of activations and matrix products.
      rows: mesh axes that split the rows of activations; within attention these are `BATCH`.
    """

    config: ModelConfig
    dtype: str
    rows: tuple[str, ...]

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        positions: Int[Array, "b t"],
        segment: Int[Array, "b t"],
        attends: Sequence[Callable],
    ) -> tuple[Float[Array, "b t d"], Float[Array, "v d"], tuple]:
        """Final hidden states, the output embedding, and what each layer's `attend` kept; it is
        called as `attention` is and returns (output, what to keep)."""
        c = self.config
        x, head = embedded(tokens, c, dtype_of(self.dtype), self.rows)
        cos, sin = rotary_angles(positions, c)
        windows = [w or EVERYTHING for w in c.windows] or [None] * c.n_layers
        kept = []
        for i, (window, attend) in enumerate(zip(windows, attends, strict=True)):
            layer = Block(c, rows=self.rows, name=f"layer_{i}")
            x, keep = layer(x, cos, sin, segment, window, attend)
            kept.append(keep)
        return norm_of(c, "final_norm")(x), head, tuple(kept)


def unstacked(params):
    """Parameters of `Decoder` as those of `Unrolled`: `layers/…` becomes `layer_0/…`, …"""
    rest = {name: tree for name, tree in params.items() if name != "layers"}
    count = jax.tree.leaves(params["layers"])[0].shape[0]
    layers = [jax.tree.map(lambda x: x[i], params["layers"]) for i in range(count)]  # noqa: B023
    return rest | {f"layer_{i}": layer for i, layer in enumerate(layers)}


def dtype_of(name: str):
    """Raises: UserError for a name that `DTYPES` has not."""
    if name not in DTYPES:
        raise UserError(f"model.dtype: unknown '{name}'. {nearest(name, DTYPES)}")
    return DTYPES[name]


def abstract_params(config: ModelConfig):
    """The parameter tree as ShapeDtypeStructs: nothing is allocated."""
    return jax.eval_shape(partial(init_params, config), jax.random.key(0))


def abstract_lora(config: ModelConfig, lora: LoraConfig):
    """The tree of adapters as ShapeDtypeStructs."""
    return jax.eval_shape(partial(init_lora, config, lora), jax.random.key(0))


def init_params(config: ModelConfig, key: Array):
    """Random parameters, float32."""
    return _init(Decoder(config), key)["params"]


def init_lora(config: ModelConfig, lora: LoraConfig, key: Array):
    """Adapters that change nothing yet: A drawn, B zero; float32. The base is not allocated when
    this is compiled."""
    return _init(Decoder(config, lora=lora), key)["lora"]


def _init(model: Decoder, key: Array):
    dummy = jnp.zeros((1, 2), jnp.int32)
    return model.init(key, dummy, dummy, dummy)


def logprob_fn(model: Decoder, *, chunk: int = CHUNK) -> Callable[..., Float[Array, "b t"]]:
    """(params, rows, lora, key) -> log-probability of every target, float32.

    `lora` is None where the model has no adapters, `key` where there is to be no dropout.
    """

    def logprobs(params, rows, lora=None, key=None):
        variables = {"params": params} | ({} if lora is None else {"lora": lora})
        rngs = None if key is None else {"dropout": key}
        hidden, head = model.apply(variables, rows.tokens, rows.positions, rows.segment, rngs=rngs)
        return token_logprobs(
            hidden, head, rows.targets, chunk=chunk, softcap=model.config.final_softcap
        )

    return logprobs
