"""How fast training is, in ratios within one run.

    python benchmarks/train.py sft
                                                 against transformers on torch, the same Llama
    python benchmarks/train.py cut iter1.json stories260k
                                                 steps of CUT in rows against the released
                                                 program's layout, two padded rows an example

`sft` needs torch (`pip install -e ".[test]"`); `cut` a file of the CUT authors and a model
directory.
"""

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lfjax.data.plan import make_plan, rows_of
from lfjax.data.rows import Rows, Segment, Unit, encode_records, place
from lfjax.data.sources import load
from lfjax.data.templates import template_text
from lfjax.data.tokenize import load_tokenizer
from lfjax.methods import cut, sft
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import Decoder, init_params, logprob_fn
from lfjax.models.flops import train_flops
from lfjax.training.step import init_state, make_train_step

SIZES = dict(vocab_size=4096, hidden_size=256, num_hidden_layers=6, num_attention_heads=8)
SIZES |= dict(num_key_value_heads=8, intermediate_size=688, max_position_embeddings=256)
BATCH, LENGTH = 8, 256


def best_time(step, repeats: int) -> float:
    """Seconds of the fastest of several calls, after one to warm up."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def jax_step(config: ModelConfig, method, options, *, remat: str):
    """(state, compiled train step) of a random model."""
    logprobs = logprob_fn(Decoder(config, remat=remat))
    tx = optax.scale_by_adam()

    def loss_fn(params, rows, *_):
        return method.loss(logprobs(params, rows), rows, **options)

    state = init_state(jax.jit(init_params, static_argnums=0)(config, jax.random.key(0)), tx)
    return state, jax.jit(make_train_step(loss_fn, tx), donate_argnums=0)


def timed(state, step, batches: list[Rows], repeats: int) -> float:
    """Seconds of one pass over the batches."""
    batches = [jax.tree.map(jnp.asarray, rows) for rows in batches]
    holder = [state]

    def one_pass():
        for rows in batches:
            holder[0], metrics = step(holder[0], rows, jnp.float32(1e-4))
        jax.block_until_ready((holder[0], metrics))

    return best_time(one_pass, repeats)


def matmul_flops(jaxpr) -> float:
    """FLOPs of all matrix products of a program, loops counted by their length and a switch by its
    dearest branch. XLA's own count takes a loop's body once."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = np.prod([eqn.invars[0].aval.shape[i] for i in contracted])
            total += 2.0 * depth * eqn.outvars[0].aval.size
            continue
        inner = [
            matmul_flops(getattr(sub, "jaxpr", sub))
            for value in eqn.params.values()
            for sub in (value if isinstance(value, (list, tuple)) else [value])
            if hasattr(getattr(sub, "jaxpr", sub), "eqns")
        ]
        if inner:
            times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            total += times * (max(inner) if eqn.primitive.name == "cond" else sum(inner))
    return total


# --- SFT against torch ------------------------------------------------------------------------


def bench_sft(repeats: int) -> None:
    """Tokens per second of a full update, and FLOPs executed over FLOPs needed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    reference = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))
    with tempfile.TemporaryDirectory() as folder:
        reference.config.save_pretrained(folder)
        config = ModelConfig.from_hf(read_hf_config(folder), folder)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (BATCH, LENGTH)).astype(np.int32)
    tokens = BATCH * LENGTH

    rows = Rows.empty(BATCH, LENGTH)
    for i, text in enumerate(ids):
        place(rows, Unit(i, (Segment(text, 1, 1, 1.0, None),)), i, 0, i + 1, "token")
    state, step = jax_step(config, sft.METHOD, sft.METHOD.options, remat="context")
    executed = matmul_flops(jax.make_jaxpr(step)(state, jax.tree.map(jnp.asarray, rows)).jaxpr)
    ours = timed(state, step, [rows], repeats)

    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-4)
    batch = torch.tensor(ids, dtype=torch.long)

    def torch_step():
        optimizer.zero_grad()
        reference(batch, labels=batch).loss.backward()
        optimizer.step()

    theirs = best_time(torch_step, repeats)
    needed = train_flops(config, [LENGTH] * BATCH)
    print(f"sft: ours {tokens / ours:,.0f} tokens/s, transformers on torch {tokens / theirs:,.0f}")
    print(f"sft: ratio {theirs / ours:.2f}")
    print(f"sft: model FLOPs a step {needed:.3g}, achieved {needed / ours / 1e9:.1f} GFLOP/s")
    print(f"sft: executed over model FLOPs {executed / needed:.2f}")


# --- one CUT epoch in two layouts -------------------------------------------------------------


def two_row_batches(units: list[Unit], batch: int, multiple: int = 8) -> list[Rows]:
    """The released layout: 2·batch rows, the judged or satisfactory view in the first half, the
    plain view of a flawed response, or a dummy of the same length, in the second; padded to the
    longest of the batch, rounded up."""
    out = []
    for start in range(0, len(units), batch):
        part = units[start : start + batch]
        width = max(len(s.ids) for u in part for s in u.segments)
        rows = Rows.empty(2 * batch, -(-width // multiple) * multiple)
        for i, unit in enumerate(part):
            for j, segment in enumerate(unit.segments):
                alone = Segment(segment.ids, segment.first, segment.role, segment.weight, None)
                place(rows, Unit(0, (alone,)), i + j * batch, 0, 2 * i + j + 1, "example")
        out.append(rows)
    return out


def bench_cut(path: str, model: str, repeats: int, steps: int) -> None:
    """Seconds of the first `steps` updates of an epoch in rows, and in two padded rows an example.

    The second pads as the released program does; its loss is SFT's, which costs the same forward
    and backward passes.
    """
    config = ModelConfig.from_hf(read_hf_config(model), model)
    encoded = encode_records(
        load(path, "cut", downsample=0.25).records,
        cut.METHOD.views_of(cut.OPTIONS),
        load_tokenizer(model),
        template_text("alpaca"),
        max_tokens=2048,
        row_tokens=4096,
    )
    plan = make_plan(encoded.lengths, row_tokens=4096, seed=0, batch_examples=8)
    packed = [rows_of(plan, step, encoded.units, "example") for step in range(plan.steps)]
    padded = two_row_batches([encoded.units[u] for u in plan.unit], 8)
    sizes = [sum(rows.tokens.size for rows in layout) for layout in (packed, padded)]
    print(f"cut: an epoch of {sum(encoded.lengths):,} tokens takes {sizes[0]:,} places in rows")
    print(f"cut: and {sizes[1]:,} in two padded rows an example, ratio {sizes[1] / sizes[0]:.2f}")
    # Each of their many widths would compile anew: they are rounded up to a multiple of 512.
    padded = [widened(rows, -(-rows.tokens.shape[1] // 512) * 512) for rows in padded[:steps]]
    ours = timed(
        *jax_step(config, cut.METHOD, cut.OPTIONS, remat="context"), packed[:steps], repeats
    )
    theirs = timed(
        *jax_step(config, sft.METHOD, sft.METHOD.options, remat="context"), padded, repeats
    )
    print(f"cut: {steps} steps in rows {ours:.1f} s, in two padded rows {theirs:.1f} s")
    print(f"cut: ratio {theirs / ours:.2f}")


def widened(rows: Rows, width: int) -> Rows:
    """Rows padded to a width."""
    wide = Rows.empty(rows.tokens.shape[0], max(width, rows.tokens.shape[1]))
    for name, value in vars(rows).items():
        if value.ndim == 2:
            getattr(wide, name)[:, : value.shape[1]] = value
    wide.mass[:] = rows.mass
    return wide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("sft", "cut"))
    parser.add_argument("files", nargs="*", help="cut: the authors' file and a model directory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="cut: steps of the epoch to time")
    args = parser.parse_args()
    if args.what == "sft":
        bench_sft(args.repeats)
    elif len(args.files) != 2:
        parser.error("cut needs a file and a model directory")
    else:
        bench_cut(*args.files, args.repeats, args.steps)


if __name__ == "__main__":
    main()
