"""How fast generation is, in ratios within one run.

    python benchmarks/generate.py stories260k             against transformers.generate on torch
    python benchmarks/generate.py --random d=288,layers=6,vocab=32000
    python benchmarks/generate.py stories260k --what batching
                                                          continuous against static batching

Both sides are greedy, warm and hold the same weights; their runs alternate, and medians are
compared. Needs torch (`pip install -e ".[test]"`), whose threads wait for each other: where other
programs run too, give both sides one core (`OMP_NUM_THREADS=1 taskset -c 0 python …`).
"""

import argparse
import tempfile
import time
from statistics import median

import jax
import numpy as np

from lfjax.generation.engine import Engine, make_engine
from lfjax.generation.rules import GREEDY
from lfjax.generation.scheduler import Request, generate
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.hf import load_frozen
from lfjax.sharding import make_mesh

PROMPT, NEW = 5, 200  # tokens
MIXED = (10, 240)  # tokens of the shortest and the longest answer, where they are ragged


def alternate(*runs, repeats: int) -> list[float]:
    """Median seconds of each, after one call of each to warm up."""
    times = [[] for _ in runs]
    for turn in range(repeats + 1):
        for run, seconds in zip(runs, times):
            start = time.perf_counter()
            run()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [median(seconds) for seconds in times]


def random_llama(folder: str, sizes: dict[str, int]) -> None:
    """A tied Llama of random weights, heads of 48."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    d = sizes["d"]
    config = LlamaConfig(
        vocab_size=sizes["vocab"],
        hidden_size=d,
        intermediate_size=-(-d * 8 // 3 // 32) * 32,
        num_hidden_layers=sizes["layers"],
        num_attention_heads=max(1, d // 48),
        num_key_value_heads=max(1, d // 48),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def load(folder: str):
    """(config, parameters, transformers' model)."""
    import torch
    from transformers import AutoModelForCausalLM

    config = ModelConfig.from_hf(read_hf_config(folder), folder)
    params = load_frozen(folder, config, make_mesh({}), "float32")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return config, params, theirs


def answer(engine: Engine, placed, requests: list[Request]) -> list[list[int]]:
    found = {i: completion.ids for i, completion in generate(engine, placed, requests)}
    return [found[i] for i in range(len(requests))]


def bench_transformers(folder: str, batches: list[int], repeats: int) -> None:
    """Tokens per second of 200 new tokens each, greedy, none stopping early."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()  # that no token ends a text
    config, params, model = load(folder)
    for batch in batches:
        engine = make_engine(config, make_mesh({}), slots=batch, max_tokens=256)
        placed = engine.place(params)
        prompts = np.random.default_rng(0).integers(3, config.vocab_size, (batch, PROMPT))
        requests = [Request(ids, NEW, GREEDY) for ids in prompts.tolist()]
        tensor = torch.tensor(prompts)
        how = dict(max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)
        how |= dict(attention_mask=torch.ones_like(tensor), eos_token_id=-1)

        def theirs():
            with torch.inference_mode():
                return model.generate(tensor, **how)[:, PROMPT:].tolist()  # noqa: B023

        def ours():
            return answer(engine, placed, requests)  # noqa: B023

        same = np.mean([a == b for a, b in zip(ours(), theirs())])
        fast, slow = alternate(ours, theirs, repeats=repeats)
        print(
            f"batch {batch}: ours {batch * NEW / fast:,.0f} tokens/s, "
            f"transformers {batch * NEW / slow:,.0f}, ratio {slow / fast:.2f}; "
            f"{same:.0%} of the answers are equal",
            flush=True,
        )


def bench_batching(folder: str, slots: int, repeats: int) -> None:
    """Ragged answers: slots refilled at once against batches that wait for their longest."""
    config, params, _ = load(folder)
    engine = make_engine(config, make_mesh({}), slots=slots, max_tokens=256, cache_buckets=(256,))
    placed = engine.place(params)
    rng = np.random.default_rng(0)
    prompts = rng.integers(3, config.vocab_size, (8 * slots, PROMPT)).tolist()
    lengths = np.exp(rng.uniform(*np.log(MIXED), len(prompts))).astype(int)
    requests = [Request(ids, int(n), GREEDY) for ids, n in zip(prompts, lengths)]

    def continuous():
        return answer(engine, placed, requests)

    def static():
        parts = (requests[i : i + slots] for i in range(0, len(requests), slots))
        return [ids for part in parts for ids in answer(engine, placed, part)]

    assert continuous() == static()
    fast, slow = alternate(continuous, static, repeats=repeats)
    print(
        f"batching: {len(requests)} answers of {lengths.min()} to {lengths.max()} tokens, "
        f"{slots} slots: continuous {lengths.sum() / fast:,.0f} tokens/s, "
        f"static {lengths.sum() / slow:,.0f}, ratio {slow / fast:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", help="a Hugging Face directory")
    parser.add_argument("--random", metavar="d=…,layers=…,vocab=…", help="a random Llama instead")
    parser.add_argument("--what", choices=("transformers", "batching"), default="transformers")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--slots", type=int, default=16, help="batching: requests at once")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if bool(args.model) == bool(args.random):
        parser.error("expected a model directory, or --random")
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            pairs = (pair.split("=") for pair in args.random.split(","))
            random_llama(folder, {name: int(value) for name, value in pairs})
        print(f"{jax.device_count()} device(s), {jax.default_backend()}")
        if args.what == "transformers":
            bench_transformers(args.model or folder, args.batches, args.repeats)
        else:
            bench_batching(args.model or folder, args.slots, args.repeats)


if __name__ == "__main__":
    main()
