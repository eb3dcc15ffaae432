"""Training and sampling of a Llama of random weights on one accelerator, against transformers.

    python benchmarks/gpu.py                    SFT, CUT, DPO and the sampler, of 1.1 B parameters
    python benchmarks/gpu.py --size 3b --rows 4 --json gpu.json
    python benchmarks/gpu.py --size toy --rows 2 --tokens 64 --batches 1 4 --dtype float32

Parameters and AdamW's moments are float32 on both sides, products bfloat16 (`--dtype`), layers are
computed again in the backward pass (`--remat none` keeps all, on both sides). A row of SFT is one
text of `--tokens`, a row of CUT and of DPO two of them: the plain and the judged view of a
response, or the chosen and the rejected one, whose reference is given. Each side runs in a process
of its own, and so has all of the memory. MFU is of model FLOPs, where the chip's peak is known.
Needs torch and transformers on the same accelerator (`pip install -e ".[cuda12,torch]"`).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

SIZES = {
    "toy": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    | dict(num_key_value_heads=2, vocab_size=256),
    "1b": dict(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32)
    | dict(num_key_value_heads=8, intermediate_size=8192, vocab_size=32000),
    "3b": dict(hidden_size=3072, num_hidden_layers=28, num_attention_heads=24)
    | dict(num_key_value_heads=8, intermediate_size=8192, vocab_size=32000),
}
METHODS = ("sft", "cut", "dpo")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bfloat16, dense
PROMPT = 32  # tokens before what is sampled, or learned
BETA, THRESHOLD, ALPHA = 0.1, 1.1, 1.0


def shape(args) -> dict:
    """A config.json."""
    rest = dict(model_type="llama", tie_word_embeddings=False, rms_norm_eps=1e-5)
    return SIZES[args.size] | rest | dict(max_position_embeddings=max(4096, args.tokens))


def texts(args, method: str):
    """Token ids `[rows, 1 or 2, tokens]`; both texts of a row end in the same response for CUT, and
    begin with the same prompt for DPO."""
    import numpy as np

    count = 1 if method == "sft" else 2
    vocabulary = SIZES[args.size]["vocab_size"]
    ids = np.random.default_rng(0).integers(0, vocabulary, (args.rows, count, args.tokens))
    if method == "cut":
        ids[:, 1, PROMPT:] = ids[:, 0, PROMPT:]
    if method == "dpo":
        ids[:, 1, :PROMPT] = ids[:, 0, :PROMPT]
    return ids.astype(np.int32)


def seconds(step: Callable[[], None], repeats: int) -> float:
    """Of one call: the median, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[repeats // 2]


# --- this library -----------------------------------------------------------------------------


def ours(args) -> Iterator[tuple[str, float]]:
    """(what, seconds of one call) of all that is measured."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from lfjax.generation.engine import make_engine
    from lfjax.generation.rules import GREEDY
    from lfjax.generation.scheduler import Request, generate
    from lfjax.methods import get_method
    from lfjax.models.config import ModelConfig
    from lfjax.models.decoder import Decoder, init_params, logprob_fn
    from lfjax.sharding import make_mesh
    from lfjax.training.step import init_state, make_train_step

    config = ModelConfig.from_hf(shape(args), "gpu.py")
    fresh = jax.jit(init_params, static_argnums=0)
    decoder = Decoder(config, args.dtype, args.remat, attention=args.attention)
    logprobs, tx = logprob_fn(decoder), optax.scale_by_adam()
    for name in args.methods:
        method = get_method(name)

        def loss_fn(params, rows, *_, method=method):
            return method.loss(logprobs(params, rows), rows, **method.options)

        step = jax.jit(make_train_step(loss_fn, tx), donate_argnums=0)
        rows = jax.tree.map(jnp.asarray, rows_of(texts(args, name), name))
        holder = [init_state(fresh(config, jax.random.key(0)), tx)]

        def update(step=step, rows=rows, holder=holder):
            holder[0], metrics = step(holder[0], rows, jnp.float32(1e-6))
            jax.block_until_ready((holder[0], metrics))

        yield name, seconds(update, args.repeats)
        holder.clear()
    params = fresh(config, jax.random.key(0)) if args.batches else None
    one = make_mesh({}, jax.devices()[:1])  # the first, as above, where there are several
    for batch in args.batches:
        longest = PROMPT + args.new
        engine = make_engine(config, one, slots=batch, max_tokens=longest, dtype=args.dtype)
        placed = engine.place(params)
        prompts = np.random.default_rng(0).integers(3, config.vocab_size, (batch, PROMPT))
        requests = [Request(ids, args.new, GREEDY) for ids in prompts.tolist()]

        def sample(engine=engine, placed=placed, requests=requests):
            drawn = sum(len(found.ids) for _, found in generate(engine, placed, requests))
            assert drawn == len(requests) * args.new

        yield f"sample {batch}", seconds(sample, args.repeats)


def rows_of(ids, method: str):
    """Our rows, one example each, the response supervised."""
    from lfjax.data.rows import Rows, Segment, Unit, place
    from lfjax.data.views import Role

    count, views, tokens = ids.shape
    roles = {
        "sft": [dict(role=Role.PLAIN, weight=1.0, twin=None)],
        "cut": [
            dict(role=Role.FLAWED, weight=0.5, twin=1),
            dict(role=Role.JUDGED, weight=0.5, twin=0),
        ],
        "dpo": [
            dict(role=Role.CHOSEN, weight=1.0, twin=None, pair=1),
            dict(role=Role.REJECTED, weight=1.0, twin=None, pair=0),
        ],
    }[method]
    rows = Rows.empty(count, views * tokens, views if method == "dpo" else 0)
    normalize = {"sft": "token", "cut": "example", "dpo": "pair"}[method]
    for i, both in enumerate(ids):
        segments = tuple(Segment(x, PROMPT, **role) for x, role in zip(both, roles))
        place(rows, Unit(i, segments), i, 0, 1, normalize)
    return rows


# --- transformers on torch --------------------------------------------------------------------


def torch_side(args) -> Iterator[tuple[str, float]]:
    """The same in torch: AdamW (fused on a GPU), autocast, SDPA attention."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype, wait = getattr(torch, args.dtype), lambda: None
    if device == "cuda":
        wait = torch.cuda.synchronize
    torch.manual_seed(0)
    config = LlamaConfig(**shape(args), attn_implementation="sdpa")
    with torch.device(device):
        model = LlamaForCausalLM(config)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    if args.remat != "none":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda")
    losses = {"sft": torch_sft, "cut": torch_cut, "dpo": torch_dpo}
    model.train()
    for name in args.methods:
        ids = torch.tensor(texts(args, name), dtype=torch.long, device=device)

        def update(ids=ids, name=name):
            optimizer.zero_grad()
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                logits = model(ids.flatten(0, 1), use_cache=False).logits[:, PROMPT - 1 : -1]
            logp = torch.log_softmax(logits.float(), -1)
            logp = logp.gather(-1, ids.flatten(0, 1)[:, PROMPT:, None])[..., 0]
            losses[name](logp.unflatten(0, ids.shape[:2])).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            wait()

        yield name, seconds(update, args.repeats)
    optimizer.zero_grad()
    del optimizer
    model = model.to(dtype).eval()
    for batch in args.batches:
        prompts = torch.randint(3, config.vocab_size, (batch, PROMPT), device=device)
        how = dict(max_new_tokens=args.new, min_new_tokens=args.new, do_sample=False)
        how |= dict(attention_mask=torch.ones_like(prompts), pad_token_id=0)

        def sample(prompts=prompts, how=how):
            with torch.inference_mode():
                assert model.generate(prompts, **how).shape[1] == PROMPT + args.new
            wait()

        yield f"sample {batch}", seconds(sample, args.repeats)


def torch_sft(logp):
    return -logp.mean()


def torch_cut(logp):
    """Mode `code`: tokens of the plain view that the judged one makes likelier are unlearned."""
    import torch

    plain, judged = logp[:, 0], logp[:, 1]
    blamed = (judged - plain).detach() > torch.log(torch.tensor(THRESHOLD))
    unlikely = -ALPHA * torch.log(-torch.expm1(plain.clamp(max=-1e-6)))
    return (torch.where(blamed, unlikely, -plain).mean() - judged.mean()) / 2


def torch_dpo(logp):
    """The reference is a column of numbers, as in our rows."""
    import torch

    above = logp.sum(-1)
    return -torch.nn.functional.logsigmoid(BETA * (above[:, 0] - above[:, 1])).mean()


# --- both -------------------------------------------------------------------------------------


def device_name() -> str:
    """Of the accelerator, or of the CPU, as jax calls it."""
    program = "import jax; d = jax.devices()[0]; print(d.device_kind)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return run.stdout.strip()


def run_side(side: str, argv: list[str]) -> dict[str, float]:
    """What a process of that side measured, told as it comes."""
    command = [sys.executable, __file__, "--side", side, *argv]
    found = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            what, value = line.rsplit(maxsplit=1)
            found[what] = float(value)
            print(f"  {side}: {what}, {float(value):.3f} s", flush=True)
    if process.returncode:
        sys.exit(f"benchmarks/gpu.py: {side} ended with status {process.returncode}")
    return found


def compare(args, found: dict[str, dict[str, float]], device: str) -> dict:
    """Tokens/s of both sides, their ratio, and MFU of training."""
    from lfjax.models.config import ModelConfig
    from lfjax.models.flops import train_flops

    config = ModelConfig.from_hf(shape(args), "gpu.py")
    peak = next((p for name, p in PEAKS.items() if name in device), None)
    table = {}
    for what, mine in found["ours"].items():
        theirs, rest = found["torch"][what], {}
        if what in METHODS:
            lengths = [args.tokens] * args.rows * (1 if what == "sft" else 2)
            tokens = sum(lengths)
            if peak:
                flops = train_flops(config, lengths)
                rest = {"mfu": flops / mine / peak, "torch_mfu": flops / theirs / peak}
        else:
            tokens = int(what.split()[1]) * args.new
        speed = {"tokens_per_s": tokens / mine, "torch_tokens_per_s": tokens / theirs}
        table[what] = speed | {"ratio": theirs / mine} | rest
    return table


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--remat", default="context", help="of ours; none for both sides")
    parser.add_argument("--attention", default="auto", help="of ours (docs/models.md)")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rows", type=int, default=8, help="examples of a step")
    parser.add_argument("--tokens", type=int, default=1024, help="of one text")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32, 128])
    parser.add_argument("--new", type=int, default=256, help="tokens sampled for each prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="file to write the table to")
    parser.add_argument("--side", choices=("ours", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.side:
        for what, value in (ours if args.side == "ours" else torch_side)(args):
            print(what, value, flush=True)
        return
    device = device_name()
    print(f"{device}: Llama of {args.size}, {args.dtype}, {args.rows} × {args.tokens} tokens")
    table = compare(args, {side: run_side(side, argv) for side in ("ours", "torch")}, device)
    for what, row in table.items():
        mfu = f", MFU {row['mfu']:.0%} and {row['torch_mfu']:.0%}" if "mfu" in row else ""
        print(
            f"{what}: ours {row['tokens_per_s']:,.0f} tokens/s, torch "
            f"{row['torch_tokens_per_s']:,.0f}, ratio {row['ratio']:.2f}{mfu}"
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"device": device, "arguments": vars(args), "table": table}, file, indent=2)


if __name__ == "__main__":
    main(sys.argv[1:])
