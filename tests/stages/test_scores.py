"""Reward and gap models through the real door: what they learn, what lies beside their weights,
and scores that depend on the text alone."""

import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from lfjax.data.records import Message, Record
from lfjax.errors import UserError
from lfjax.sharding import AXES, make_mesh
from lfjax.stages.scoring import load_scorer
from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import run_main

DEMO = ROOT / "lfjax" / "lab" / "demo"
ANIMALS = ("fox", "hare", "owl", "bear", "wolf", "otter")
GOOD, BAD = "The {} is brown, eats {} and sleeps in a nest.", "The {} is yellow and eats {}."


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [
        {
            "prompt": f"Tell me about the {animal}.",
            "chosen": GOOD.format(animal, food),
            "rejected": BAD.format(animal, food),
        }
        for animal in ANIMALS
        for food in ("seeds", "fish", "roots")
    ]
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


def run_scores(workdir, pairs, method, *more):
    how = {
        "total_epochs": 8,
        "batch_examples": 6,
        "row_tokens": 512,
        "max_tokens": 128,
        "eval_epochs": 1.0,
        "save_epochs": 1.0,
        "lora.rank": 0,
        "lora.base_dtype": "float32",
        "dtype": "float32",
        "optimizer.learning_rate": 0.003,
    }
    flags = (f"--config.stages.{method}.{name}={value}" for name, value in how.items())
    model = (f"--config.model.path={DEMO}", "--config.model.weights=random")
    data = (f"--config.data.path={pairs}", "--config.data.heldout_examples=4")
    config = f"configs/reward.py:{method}"
    return run_main(workdir, *model, *data, *flags, *more, config=config, quick=False)


@pytest.fixture(scope="module")
def reward(tmp_path_factory, pairs):
    workdir = tmp_path_factory.mktemp("reward")
    run = run_scores(workdir, pairs, "reward")
    assert run.returncode == 0, run.stderr
    return workdir / "reward"


@pytest.fixture(scope="module")
def gap(tmp_path_factory, pairs):
    workdir = tmp_path_factory.mktemp("gap")
    run = run_scores(workdir, pairs, "gap")
    assert run.returncode == 0, run.stderr
    return workdir / "gap"


@pytest.fixture(scope="module")
def one_device() -> Mesh:
    with jax.default_device(jax.devices()[0]):
        return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)


def logged(stage):
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def record(animal, response, refinement=None):
    asked = (Message("user", f"Tell me about the {animal}."),)
    return Record(
        f"{animal}/{response}/{refinement}", "test", asked, response, refinement=refinement
    )


def test_reward_learns_the_preference(reward):
    rows = logged(reward)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)  # the head begins at zero
    assert rows[0]["ties"] == 1 and rows[0]["accuracy"] == 0.5
    assert rows[-1]["heldout/accuracy"] == 1
    meaning = json.loads((reward / "hf" / "score.json").read_text())
    assert meaning["kind"] == "reward" and meaning["spread"] > 0 and meaning["heldout"] == 6
    assert meaning["means"]["chosen"] > meaning["means"]["rejected"]
    head = load_file(reward / "hf" / "score.safetensors")["score.kernel"]
    assert head.dtype == np.float32 and np.abs(head).max() > 0


def test_gap_orders_its_four_pairings(gap):
    rows = logged(gap)
    assert rows[0]["loss"] == pytest.approx(5 * np.log(2), abs=1e-6)
    last = rows[-1]
    assert last["heldout/accuracy"] == 1 and last["heldout/accuracy_all"] > 0.5
    means = json.loads((gap / "hf" / "score.json").read_text())["means"]
    assert means["wl"] > max(means["ww"], means["ll"])
    assert min(means["ww"], means["ll"]) > means["lw"]


def test_what_was_trained_scores_the_same_when_it_is_read_again(gap, one_device):
    """Calibration ran on packed rows of the trainer, the scorer has one text a row."""
    meaning = json.loads((gap / "hf" / "score.json").read_text())
    scorer = load_scorer(str(gap / "hf"), one_device, policy=str(DEMO))
    foods = ("seeds", "fish", "roots")
    good = [record(a, GOOD.format(a, f), GOOD.format(a, f)) for a in ANIMALS for f in foods]
    bad = [record(a, BAD.format(a, f), BAD.format(a, f)) for a in ANIMALS for f in foods]
    better = [record(a, BAD.format(a, f), GOOD.format(a, f)) for a in ANIMALS for f in foods]
    worse = [record(a, GOOD.format(a, f), BAD.format(a, f)) for a in ANIMALS for f in foods]
    same, gain, loss = scorer(good + bad), scorer(better), scorer(worse)
    assert gain.min() > np.abs(same).max() and loss.max() < 0
    for gaps, name in ((gain, "wl"), (loss, "lw")):  # all pairs against those held out
        assert gaps.mean() + meaning["offset"] == pytest.approx(meaning["means"][name], rel=0.25)


def test_transformers_loads_what_lies_beside_the_head(reward):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    network = transformers.AutoModelForCausalLM.from_pretrained(str(reward / "hf"))
    assert network.config.vocab_size > 0


def test_a_score_depends_on_its_text_alone(reward, one_device):
    """Alone, among longer texts, on several devices, in bfloat16."""
    scorer = load_scorer(str(reward / "hf"), one_device)
    records = [record(a, GOOD.format(a, "seeds " * n)) for n, a in enumerate(ANIMALS, 1)]
    together = scorer(records)
    alone = np.concatenate([scorer([r]) for r in records])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    wide = load_scorer(str(reward / "hf"), make_mesh({"data": 2, "fsdp": 4}))
    np.testing.assert_allclose(wide(records), alone, atol=1e-5)
    half = load_scorer(str(reward / "hf"), one_device, dtype="bfloat16")
    np.testing.assert_allclose(half(records), alone, atol=0.02 * scorer.spread + 1e-2)


def test_a_difference_of_rewards(pairs, tmp_path, one_device):
    run = run_scores(tmp_path, pairs, "gap", "--config.stages.gap.options.of=rewards")
    assert run.returncode == 0, run.stderr
    assert logged(tmp_path / "gap")[0]["loss"] == pytest.approx(5 * np.log(2), abs=1e-6)
    scorer = load_scorer(str(tmp_path / "gap" / "hf"), one_device)
    assert scorer.kind == "difference" and scorer.meaning["offset"] == 0
    good, bad = GOOD.format("fox", "fish"), BAD.format("fox", "fish")
    gain, loss, same = scorer(
        [record("fox", bad, good), record("fox", good, bad), record("fox", good, good)]
    )
    assert gain > 0 and loss == pytest.approx(-gain, abs=1e-6) and same == 0


def test_adapters_train_the_head_too(pairs, tmp_path):
    lora = ("--config.stages.reward.lora.rank=4", "--config.stages.reward.lora.pattern=attn/")
    run = run_scores(tmp_path, pairs, "reward", *lora)
    assert run.returncode == 0, run.stderr
    assert logged(tmp_path / "reward")[-1]["heldout/accuracy"] == 1
    assert (tmp_path / "reward" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "reward" / "hf" / "score.safetensors").is_file()


def test_without_held_out_records(pairs, tmp_path):
    flags = ("--config.data.heldout_examples=0", "--config.stages.reward.best=")
    flags += ("--config.stages.reward.eval_epochs=0",)
    run = run_scores(tmp_path, pairs, "reward", *flags)
    assert run.returncode == 2 and "calibrated on held-out records" in run.stderr


def test_another_tokenizer(reward, stories, one_device):
    with pytest.raises(UserError, match="tokenizer is not that of"):
        load_scorer(str(reward / "hf"), one_device, policy=stories)


def test_not_a_scorer(stories, one_device):
    with pytest.raises(UserError, match="trained by the method reward or gap"):
        load_scorer(stories, one_device, template="alpaca")


def test_scores_that_are_no_numbers(reward, tmp_path, one_device):
    broken = tmp_path / "broken"
    shutil.copytree(reward / "hf", broken)
    kernel = load_file(broken / "score.safetensors")["score.kernel"]
    save_file({"score.kernel": np.full_like(kernel, np.nan)}, broken / "score.safetensors")
    with pytest.raises(UserError, match=r"score of record 'fox.*is nan"):
        load_scorer(str(broken), one_device)([record("fox", "The fox is brown.")])


def test_texts_that_do_not_fit(gap, one_device):
    scorer = load_scorer(str(gap / "hf"), one_device)
    with pytest.raises(UserError, match="texts of at most 128"):
        scorer([record("fox", "seeds " * 90, "fish " * 90)])
    fits = record("fox", "The fox is brown.", "The fox eats seeds.")
    found = scorer.where_it_fits([record("fox", "seeds " * 90, "fish " * 90), fits])
    assert np.isnan(found[0]) and found[1] == scorer([fits])[0]
    with pytest.raises(UserError, match="a gap needs a refinement"):
        scorer([record("fox", "The fox is brown.")])
