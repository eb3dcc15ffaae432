"""How long a step of the rl stage takes, and whether sampler and trainer are one model.

    python benchmarks/rl.py MODEL_DIR

runs a few steps on stories, rewarded by a rule, through `lfjax.main`'s own code, and prints the
medians of the seconds of a step's parts (after the first steps, which compile), tokens a second,
and the largest and the mean difference between the log-probabilities that the sampler drew with
and those that the trainer finds for the same tokens.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, median

import jax

from lfjax.recipe import base, make, recipe, rl
from lfjax.stages.run import run_recipe

PARTS = ("rollout", "score", "update")
PROMPT_TOKENS = 64  # at most


def config(args):
    c = base(source="prompts", path="stories/prompts", model_path=args.model)
    c.data.template = "bare"
    most = PROMPT_TOKENS + args.new_tokens
    sizes = dict(max_new_tokens=args.new_tokens, max_tokens=most, row_tokens=args.row * most)
    sizes |= dict(prompts=args.prompts, samples=args.samples, slots=args.slots)
    stage = rl(
        data=c.data,
        init=c.model,
        kl_to=c.model,
        reward="lfjax.judges.rules:story",
        total_steps=args.warm + args.steps,
        total_epochs=0.0,
        learning_rate=1e-5,
        dtype=args.dtype,
        rollout_dtype=args.dtype,
        temperature=args.temperature,
        kl=args.kl,
        kl_in="both" if args.kl == "exact" else "reward",
        lora=dict(rank=args.lora_rank, pattern="."),
        save_steps=0,
        **sizes,
    )
    return recipe(c, stories=make("lfjax.lab.stories:write", count=200), rl=stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="directory of stories260k, or another model of stories")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--row", type=int, default=1, help="longest rollouts that fit a row")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="that are timed")
    parser.add_argument("--warm", type=int, default=4, help="steps before them")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--kl", choices=("k1", "exact"), default="k1")
    parser.add_argument("--lora-rank", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_recipe(config(args), folder)
        log = (Path(folder) / "rl" / "metrics.jsonl").read_text().splitlines()
    rows = list(map(json.loads, log))
    timed = rows[args.warm :]
    seconds = {part: median(row[f"seconds_{part}"] for row in timed) for part in PARTS}
    whole = sum(seconds.values())
    tokens = (timed[-1]["tokens"] - rows[args.warm - 1]["tokens"]) / len(timed)
    print(f"{jax.device_count()} device(s), {jax.default_backend()}, {args.dtype}")
    print(f"{args.prompts} prompts × {args.samples} responses, {tokens:,.0f} tokens a step")
    for part, value in seconds.items():
        print(f"{part:8} {value:7.3f} s  {value / whole:4.0%}")
    print(f"step     {whole:7.3f} s  {tokens / whole:,.0f} tokens/s")
    largest = max(row["sampler_difference_max"] for row in rows)
    usual = mean(row["sampler_difference"] for row in rows)
    print(f"sampler and trainer: log-probabilities differ by {usual:.1e}, at most {largest:.1e}")


if __name__ == "__main__":
    main()
