"""A policy with a known optimum: a random model that says one of a few words, and a rule that
rewards each word."""

import json

import jax
import numpy as np
from safetensors.numpy import save_file

from lfjax.data.records import Candidate, Feedback, Message, Record, to_jsonl
from lfjax.lab.model import make_tokenizer, model_config, tokenizer_config
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import init_params
from lfjax.models.hf import export_tensors
from lfjax.recipe import base, make, of_stage, recipe, rl, train
from lfjax.training.logs import write_atomic

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
WORDS = ("ask", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
VALUES = dict(zip(WORDS, (1.5, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0)))
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PROMPTS = ("say fox", "say cat")
BETA = 0.5


def write(folder, *, seed):
    """A tiny random Llama's directory, and prompts, some with two responses."""
    vocabulary = [*SPECIAL, "say", *WORDS]
    config = model_config(len(vocabulary)) | {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    write_atomic(folder / "model/tokenizer.json", make_tokenizer(vocabulary).to_str())
    write_atomic(folder / "model/tokenizer_config.json", json.dumps(tokenizer_config()))
    write_atomic(folder / "model/chat_template.jinja", TEMPLATE)
    write_atomic(folder / "model/config.json", json.dumps(config))
    shape = ModelConfig.from_hf(config, "bandit")
    params = jax.tree.map(lambda x: 4 * x, init_params(shape, jax.random.key(seed)))
    save_file(dict(export_tensors(params, shape, "float32")), folder / "model/model.safetensors")
    prompts = [Record(f"p{i}", "bandit", (Message("user", p),)) for i, p in enumerate(PROMPTS)]
    write_atomic(folder / "prompts.jsonl", to_jsonl(prompts))
    drafts = [
        Record(f"d{i}", "bandit", (Message("user", p),), response=w)
        for i, (p, w) in enumerate((p, w) for p in PROMPTS for w in (*WORDS, "cat " * 9 + "cat"))
    ]
    write_atomic(folder / "drafts.jsonl", to_jsonl(drafts))
    pairs = [
        Record(f"{p}: {a}, {b}", "bandit", (Message("user", p),), candidates=better(a, b))
        for p in PROMPTS
        for a in WORDS[:3]
        for b in WORDS[1:]
        if VALUES[a] > VALUES[b]
    ]
    write_atomic(folder / "pairs.jsonl", to_jsonl(pairs))
    files = {name: f"{name}.jsonl" for name in ("prompts", "drafts", "pairs")}
    return {"model": "model", **files}


def better(a, b):
    return Candidate(a, preferred=True), Candidate(b, preferred=False)


def value(record):
    """The mean value of the response's words."""
    return mean(record.response)


def gain(record):
    """The same, less that of the response that was to be improved."""
    return mean(record.response, -mean(record.meta["reference"]).score)


def opposite(record):
    """The less the better."""
    return mean(record.response, 0.0, -1.0)


def broken(record):
    """No number."""
    return mean(record.response, np.nan)


def mean(text, more=0.0, sign=1.0):
    found = np.mean([VALUES.get(word, 0.0) for word in text.split()])
    return Feedback("", "mixed", score=float(sign * found + more))


def get_config(arg="bandit"):
    c = base(source="records", path="world/prompts", model_path="world/model")
    c.data.template = "own"
    rule = "tests.stages.bandit:"
    small = dict(max_tokens=32, row_tokens=64, slots=64, remat="none", prompts=16, samples=8)
    stages = {"world": make("tests.stages.bandit:write")}
    one = dict(init=c.model, kl_to=c.model, data=c.data, max_new_tokens=1, missing_eos_penalty=0.0)
    more = dict(data=c.data, init=c.model, kl_to=c.model, total_epochs=0.0, max_new_tokens=6)
    if arg == "bandit":
        stages["rl"] = rl(
            reward=rule + "value",
            monitor=rule + "opposite",
            beta=BETA,
            total_steps=150,
            total_epochs=0.0,
            save_steps=50,
            learning_rate=0.002,
            decay="cosine",
            **one,
            **small,
        )
    elif arg == "words":
        stages["rl"] = rl(
            reward=rule + "value",
            beta=0.0,
            kl_dtype="bfloat16",
            total_steps=60,
            learning_rate=0.02,
            decay="linear",
            mini_batches=2,
            passes=2,
            **more,
            **small,
        )
    elif arg == "short":
        c.data.path = "world/drafts"
        stages["rl"] = rl(
            reward={"gain": rule + "gain", "value": {"rule": rule + "value", "weight": 0.5}},
            monitor=rule + "value",
            reference=("response",),
            beta=0.1,
            kl="exact",
            kl_in="both",
            temperature=0.8,
            max_reference_tokens=8,
            total_steps=4,
            save_steps=3,
            learning_rate=0.01,
            mini_batches=2,
            **more | dict(max_new_tokens=6),
            **small | dict(prompts=6, samples=3, max_tokens=48, row_tokens=96),
        )
    elif arg == "judged":
        endpoint = dict(url="http://localhost", model="m", key_env="", deadline_s=1.0)
        one |= dict(total_steps=2, total_epochs=0.0, lora=dict(rank=2))
        stages["rl"] = rl(reward={"judge": dict(judge="score", endpoint=endpoint)}, **one, **small)
    elif arg == "gap":
        c.data.path = "world/pairs"
        c.data.heldout_examples = 6
        scoring = dict(data=c.data, init=c.model, max_tokens=48, row_tokens=192, remat="none")
        few = dict(batch_examples=8, total_epochs=30.0, learning_rate=0.01)
        stages["gap"] = train("gap", **scoring, **few)
        every = dict(reward="gap", beta=0.05, monitor=rule + "gain", missing_eos_penalty=0.0)
        every |= small | dict(max_tokens=48, row_tokens=96, max_new_tokens=2, samples=4)
        every |= dict(total_epochs=0.0, learning_rate=0.02, lora=dict(rank=4, pattern="."))
        start = dict(init=c.model, kl_to=c.model)
        both = ("rejected", "chosen")
        stages["easy"] = rl(data=c.data, reference=both, total_steps=20, **start, **every)
        again = of_stage(c.data, "easy/records")
        hard = dict(init="easy", kl_to=c.model, reference=("response",), total_steps=3)
        stages["hard"] = rl(data=again, **hard, **every)
    return recipe(c, **stages)
