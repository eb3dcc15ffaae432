"""The engine: prefill, insert and decode, three compiled functions over a state of fixed slots.

b slots, r prompts of one prefill, t tokens of a prompt, v vocabulary, m stop ids, c tokens of one
call.

A prompt but for its last token goes through `prefill`, which returns keys and values; `insert` puts
them into free slots; `decode` feeds every slot's last token and draws the next one, over and over,
until enough slots are free again. Lengths are rounded up to buckets, each compiled once. A prefill
has as many rows as its bucket says, filled up with empty ones, and a request's bucket is its own:
no shape depends on who else is there, and so no bit of a request's numbers.

On a mesh the weights are split over tensor × fsdp and never gathered. Rows are split over data;
within attention and in the cache over data × fsdp, and heads over tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt32

from lfjax.errors import UserError
from lfjax.generation import cache as caches
from lfjax.generation.rules import Rules, pick
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import Unrolled, abstract_params, dtype_of, unstacked
from lfjax.sharding import BATCH, DECODE_RULES, axis_size, constrain, put, tree_shardings

CALL_TOKENS = 64  # most tokens that one call of decode draws for a slot
PREFILL_TOKENS = 256  # of one prefill, where a bucket is no longer
STOP_IDS = 8  # of one request


@no_type_check  # also filled with numpy arrays, and by tree.map with shardings
@struct.dataclass
class Slots:
    """What a slot knows of its request; everything but the cache. It is the state's, and what
    `insert` is given for `r` new requests.

    Attributes:
      token: the last token, which is not in the cache yet.
      position: its position.
      number: tokens drawn so far.
      limit: how many are drawn at most.
      active: whether the request goes on.
      key: its random bits.
      stop_ids: tokens after which it ends; -1 is none.
      rules: its sampling rules.
    """

    token: Int[Array, "b"]
    position: Int[Array, "b"]
    number: Int[Array, "b"]
    limit: Int[Array, "b"]
    active: Bool[Array, "b"]
    key: UInt32[Array, "b 2"]
    stop_ids: Int[Array, "b m"]
    rules: Rules


@no_type_check
@struct.dataclass
class State:
    """What lives on the devices between calls, donated to each.

    Attributes:
      seen: tokens that the prompt or the response holds.
      cache: keys and values.
    """

    slots: Slots
    seen: Bool[Array, "b v"]
    cache: tuple[caches.Layer, ...]


@no_type_check
@struct.dataclass
class Drawn:
    """What a call of decode tells the host, the same on all of them.

    Attributes:
      tokens: drawn in this call; of slot i the first `count[i]`.
      logps: of the tokens under the model, before any sampling rule.
      active: whether the request goes on.
    """

    tokens: Int[Array, "b c"]
    logps: Float[Array, "b c"]
    count: Int[Array, "b"]
    active: Bool[Array, "b"]


@dataclass(frozen=True)
class Engine:
    """A model ready to generate.

    Attributes:
      slots: requests that are decoded at once; a multiple of the mesh's data × fsdp.
      cache_buckets: numbers of tokens, prompt and response, that a cache may hold; ascending.
      prompt_buckets: numbers of tokens that prompts are padded to; ascending.
      place: (parameters of `Decoder`, wherever they are) -> parameters of the engine: a copy in the
        compute dtype, split for decoding.
      empty: (cache bucket) -> a state with no request.
      prefill: (params, tokens [r, t], lengths [r]) -> keys and values.
      insert: (state, keys and values, tokens [r, t], lengths [r], slots [r], `Slots` of r) ->
        state. The prompt's last token is in `Slots` alone. A slot beyond the last is left out.
      decode: (params, state, alive [b], steps, enough) -> (state, `Drawn`), after at most `steps`
        tokens, or as soon as `enough` requests have ended, or all. Requests that are not alive
        end before the first one.
    """

    config: ModelConfig
    mesh: Mesh
    slots: int
    cache_buckets: tuple[int, ...]
    prompt_buckets: tuple[int, ...]
    place: Callable[[Any], Any]
    empty: Callable[[int], State]
    prefill: Callable[..., Any]
    insert: Callable[..., State]
    decode: Callable[..., tuple[State, Drawn]]

    def put(self, tree):
        """Host arrays, the same on every process, as the functions want them."""
        return put(tree, self.mesh, P())

    def prefill_rows(self, bucket: int) -> int:
        """Prompts that one prefill of a bucket takes: fewer of the long ones, and never so many
        that slots wait long for each other."""
        rows = min(PREFILL_TOKENS // bucket, self.slots // 4)
        shards = axis_size(self.mesh, BATCH)
        return max(1, -(-rows // shards)) * shards


def powers_of_two(first: int, last: int) -> tuple[int, ...]:
    """first, 2·first, … and `last`."""
    return (*(first << i for i in range(32) if first << i < last), last)


def whole_slots(slots: int, mesh: Mesh) -> int:
    """The next multiple of the mesh's data × fsdp, so that every part has as many."""
    shards = axis_size(mesh, BATCH)
    return -(-slots // shards) * shards


def make_engine(
    config: ModelConfig,
    mesh: Mesh,
    *,
    slots: int = 32,
    max_tokens: int = 2048,
    dtype: str = "float32",
    cache_buckets: Sequence[int] = (),
    prompt_buckets: Sequence[int] = (),
) -> Engine:
    """Compile nothing yet: each function is compiled for a bucket when it is first needed.

    Args:
      slots: requests that are decoded at once, rounded up as `whole_slots` does; no request's
        numbers depend on it.
      max_tokens: of prompt and response together.
      dtype: of weights, cache and activations.
      cache_buckets: lengths of caches; `max_tokens` alone unless given. Attention reads no more of
        a cache than is in use: a smaller bucket saves memory, not time, and requests of different
        buckets are served one bucket after the other.
      prompt_buckets: lengths that prompts are padded to; powers of two unless given.

    Raises: UserError where mesh and model do not go together, and without a slot.
    """
    if slots < 1:
        raise UserError(f"generation: slots={slots}; expected at least 1.")
    slots, tensor = whole_slots(slots, mesh), axis_size(mesh, "tensor")
    if config.n_kv_heads % tensor:
        raise UserError(
            f"mesh.tensor={tensor} does not divide the model's {config.n_kv_heads} key/value heads."
        )
    cast = dtype_of(dtype)
    model = Unrolled(config, dtype, ("data",))

    def place(params):
        # Norms and biases stay float32: they are small, and a scale of 1 + s is rounded in float32.
        return jax.tree.map(lambda x: x.astype(cast) if x.ndim > 1 else x, unstacked(params))

    def empty(tokens):
        return _empty(config, slots, tokens, cast)

    everywhere = NamedSharding(mesh, P())
    weights = tree_shardings(jax.eval_shape(unstacked, abstract_params(config)), mesh, DECODE_RULES)
    state = State(
        slots=everywhere,
        seen=NamedSharding(mesh, P(BATCH, None)),
        cache=NamedSharding(mesh, P(BATCH, "tensor", None, None)),
    )
    prompts = NamedSharding(mesh, P(BATCH, None, "tensor", None))

    def compiled(fn, out, **how):
        def on_mesh(*args):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return fn(*args)

        return jax.jit(on_mesh, out_shardings=out, **how)

    return Engine(
        config,
        mesh,
        slots,
        tuple(sorted(cache_buckets)) or (max_tokens,),
        tuple(sorted(prompt_buckets)) or powers_of_two(16, max_tokens),
        place=compiled(place, weights),
        empty=compiled(empty, state, static_argnums=0),
        prefill=compiled(partial(_prefill, model), prompts),
        insert=compiled(_insert, state, donate_argnums=0),
        decode=compiled(partial(_decode, model), (state, everywhere), donate_argnums=1),
    )


def _empty(config: ModelConfig, slots: int, tokens: int, dtype) -> State:
    def zeros(*shape, dtype=jnp.int32):
        return jnp.zeros((slots, *shape), dtype)

    floats = partial(zeros, dtype=jnp.float32)
    return State(
        Slots(
            token=zeros(),
            position=zeros(),
            number=zeros(),
            limit=zeros(),
            active=zeros(dtype=bool),
            key=zeros(2, dtype=jnp.uint32),
            stop_ids=zeros(STOP_IDS),
            rules=Rules(floats(), floats(), zeros(), floats(), floats()),
        ),
        seen=zeros(config.vocab_size, dtype=bool),
        cache=caches.empty(config, slots, tokens, dtype),
    )


def _prefill(model: Unrolled, params, tokens: Int[Array, "r t"], lengths: Int[Array, "r"]):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    segment = (positions < lengths[:, None]).astype(jnp.int32)
    attends = [caches.attend_prompt] * model.config.n_layers
    return model.apply({"params": params}, tokens, positions, segment, attends)[2]


def _insert(
    state: State,
    prompts,
    tokens: Int[Array, "r t"],
    lengths: Int[Array, "r"],
    slots: Int[Array, "r"],
    new: Slots,
) -> State:
    r, t = tokens.shape
    rows = jnp.arange(r)[:, None]
    tokens = jnp.where(jnp.arange(t) < lengths[:, None], tokens, new.token[:, None])  # no padding
    tokens = jnp.concatenate([tokens, new.token[:, None]], axis=1)
    seen = jnp.zeros((r, state.seen.shape[1]), bool).at[rows, tokens].set(True)
    return State(
        jax.tree.map(lambda x, y: x.at[slots].set(y, mode="drop"), state.slots, new),
        state.seen.at[slots].set(seen, mode="drop"),
        caches.with_prompts(state.cache, prompts, lengths, slots),
    )


def _decode(
    model: Unrolled, params, state: State, alive: Bool[Array, "b"], steps, enough
) -> tuple[State, Drawn]:
    slots = state.slots
    state = state.replace(slots=slots.replace(active=slots.active & alive))
    running = state.slots.active.sum()
    rules = state.slots.rules.only(state.slots.active)

    def more(carry):
        i, state, _, _ = carry
        left = state.slots.active.sum()
        return (i < steps) & (left > 0) & (running - left < enough)

    def body(carry):
        i, state, tokens, logps = carry
        state, logp = _step(model, params, state, rules)
        tokens = lax.dynamic_update_index_in_dim(tokens, state.slots.token, i, 1)
        return i + 1, state, tokens, lax.dynamic_update_index_in_dim(logps, logp, i, 1)

    drawn = (alive.shape[0], CALL_TOKENS)
    start = (0, state, jnp.zeros(drawn, jnp.int32), jnp.zeros(drawn, jnp.float32))
    _, state, tokens, logps = lax.while_loop(more, body, start)
    count = state.slots.number - slots.number
    return state, Drawn(tokens, logps, count, state.slots.active)


def _step(model: Unrolled, params, state: State, rules: Rules) -> tuple[State, Float[Array, "b"]]:
    """One more token for every active slot, and its log-probability."""
    s = state.slots
    reach = jnp.where(s.active, s.position, 0).max()
    attends = [partial(caches.attend_cached, layer, s.position, reach) for layer in state.cache]
    one = jnp.ones_like(s.token)[:, None]
    hidden, head, cache = model.apply(
        {"params": params}, s.token[:, None], s.position[:, None], one, attends
    )
    logits = jnp.einsum("bd,vd->bv", hidden[:, 0], head, preferred_element_type=jnp.float32)
    logits = constrain(logits, model.rows, "tensor")  # a product that gathers no head
    softcap = model.config.final_softcap
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    token = pick(logits, rules, state.seen, s.key, s.number)
    logp = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    logp -= jax.nn.logsumexp(logits, axis=1)
    number = s.number + s.active
    stopped = (token[:, None] == s.stop_ids).any(axis=1) | (number >= s.limit)
    slots = s.replace(
        token=token,
        position=s.position + s.active,
        number=number,
        active=s.active & ~stopped,
    )
    seen = state.seen.at[jnp.arange(len(token)), token].set(True)
    return State(slots, seen, cache), logp
