"""The rl stage through the real door: a policy with a known optimum, what is logged, and runs that
are killed."""

import json
import re
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lfjax.data.records import Record
from lfjax.data.tokenize import load_tokenizer
from lfjax.errors import UserError
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import Decoder
from lfjax.models.scalar import head_files
from lfjax.stages.run import run_recipe
from tests.conftest import ROOT
from tests.judges.servers import Chat, completion, serving
from tests.models_of import load_model
from tests.stages.bandit import BETA, PROMPTS, SPECIAL, VALUES, WORDS
from tests.stages.bandit import get_config as bandit_config
from tests.stages.conftest import command, environment, run_main

CONFIG = "tests/stages/bandit.py"


def run(workdir, variant, *flags):
    return run_main(workdir, *flags, config=f"{CONFIG}:{variant}", quick=False)


def done(workdir, variant, *flags):
    """The same, to its end."""
    found = run(workdir, variant, *flags)
    assert found.returncode == 0, found.stderr
    return found


def told(found):
    """What a run said of its mistake."""
    assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
    return next(line for line in found.stderr.splitlines() if line.startswith("lfjax: "))


def log(workdir, stage="rl"):
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(workdir, stage="rl"):
    return load_file(workdir / stage / "hf" / "model.safetensors")


def next_word(path, prompt):
    """The model's distribution of the first token after a prompt."""
    config, params = load_model(str(path))
    tokenizer = load_tokenizer(str(path))
    ids = [tokenizer.bos, *tokenizer.encode(prompt)]
    one = jnp.ones((1, len(ids)), jnp.int32)
    places = jnp.arange(len(ids))[None]
    hidden, head = Decoder(config).apply({"params": params}, jnp.array([ids]), places, one)
    return np.asarray(jax.nn.softmax(hidden[0, -1] @ head.T), np.float64)


# --- what is learned --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bandit(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("bandit")
    return workdir, done(workdir, "bandit")


def test_finds_the_regularised_optimum(bandit):
    """π ∝ π_ref exp(r / β), in closed form, for the answers that a rule can read; the others'
    reward is 1 less than the worst word's."""
    values = np.array([-1.0] * len(SPECIAL) + [0.0] + [VALUES[word] for word in WORDS])
    for prompt in PROMPTS:
        start, found = (next_word(bandit[0] / p, prompt) for p in ("world/model", "rl/hf"))
        best = start * np.exp(values / BETA)
        best /= best.sum()
        assert np.abs(best - start).sum() / 2 > 0.2
        assert np.abs(best - found).sum() / 2 < 0.01, (best, found)


def test_starts_at_the_reference(bandit):
    """Before the first update policy and reference are equal to the last bit, and the update is
    made where the ratio is 1; the sampler is the same model."""
    rows = log(bandit[0])
    first = rows[0]
    assert first["kl_k1"] == first["kl_k2"] == first["kl_k3"] == 0
    assert first["ratio"] == 1 and first["clipped"] == 0
    assert all(row["sampler_difference_max"] < 1e-3 for row in rows)
    assert first["reward"] < rows[-1]["reward"]


def test_alarm(bandit):
    """The monitor is the opposite of the reward: it falls as the reward rises."""
    workdir, found = bandit
    rows = log(workdir)
    assert max(row["alarm"] for row in rows) == 1 and "WARNING" in found.stdout
    summary = json.loads((workdir / "rl" / "done.json").read_text())["headline"]
    assert summary["alarms"] > 0 and summary["agreement"] < 0.5


def test_rollouts_are_records(bandit):
    found = records(bandit[0] / "rl" / "records.jsonl")
    assert len(found) == 150 * 16 * 8 and len({r["id"] for r in found}) == len(found)
    for r in found[:100]:
        record = Record.from_json(r)
        assert record.model == "rl" and "drawn" not in record.meta
        if record.response:
            assert record.meta["rewards"]["reward"] == VALUES.get(record.response, 0.0)


def test_whole_answers_without_a_reference(tmp_path):
    """Several tokens, two mini-batches, two passes: all answers are the best, and end."""
    done(tmp_path, "words")
    first, *_, last = log(tmp_path)
    assert last["reward"] > 1.45 and last["eos"] > 0.95
    assert 0 < first["kl_k3"] < 1e-2  # the reference is rounded


@pytest.mark.slow
def test_gap_reward_and_adapters(tmp_path):
    """A gap model rewards an improver, whose model a next stage improves on, from its own
    rollouts."""
    done(tmp_path, "gap")
    rows = log(tmp_path, "easy")
    assert rows[0]["kl_k1"] == 0  # the reference is the base under adapters that do nothing yet
    assert rows[0]["reward/of_rejected"] > rows[0]["reward/of_chosen"]
    bands = [rows[0][f"gap_{band}"] for band in ("better", "similar", "worse")]
    assert sum(bands) == pytest.approx(1)
    turned = {row["step"]: row["antisymmetry"] for row in rows if "antisymmetry" in row}
    assert set(turned) == {10, 20} and all(-1 <= value <= 1 for value in turned.values())
    assert rows[-1]["reward"] > rows[0]["reward"] and rows[-1]["monitor"] > rows[0]["monitor"]
    assert (tmp_path / "easy" / "adapter" / "adapter_model.safetensors").is_file()
    assert log(tmp_path, "hard")[0]["kl_k1"] > 0.01  # it starts where the first one ended
    first = records(tmp_path / "easy" / "records.jsonl")[0]
    assert first["response"] in WORDS and first["meta"]["origin"] in ("rejected", "chosen")


def test_a_judge_rewards(tmp_path):
    """Each different answer is judged once; an answer without a judgment is missing, not zero."""

    def opinion(text):
        said = re.search(r"### Response\n(.*)", text)[1].strip()
        if said == "hen":
            return completion("I cannot say.")
        return completion(f"Well. Score: [[{10 if said == 'ask' else 1}]]")

    with serving(chat := Chat(opinion)) as url:
        done(tmp_path, "judged", f"--config.stages.rl.rewards.judge.endpoint.url={url}")
    found = records(tmp_path / "rl" / "records.jsonl")
    given = {r.get("response"): r["meta"]["rewards"].get("judge") for r in found}
    words = {word: value for word, value in given.items() if word in WORDS}
    assert words == {w: {"ask": 1.0, "hen": None}.get(w, 0.0) for w in words} and "hen" in words
    told = {(r["prompt"][0]["content"], r["response"]) for r in found if "response" in r}
    assert len(chat.asked) == len(told)
    missing = [r.get("response") == "hen" for r in found]
    assert log(tmp_path)[0]["reward/judge/missing"] == np.mean(missing[:128])
    assert log(tmp_path)[0]["kl_k1"] == 0


# --- what is lost: nothing --------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("short")
    return workdir, done(workdir, "short")


def test_long_references_are_left_out(short):
    assert "16 of 18 records; left out: 2 references too long" in short[1].stdout


def test_exact_kl_is_logged(short):
    rows = log(short[0])
    assert rows[0]["kl_exact"] == pytest.approx(0, abs=1e-5) and rows[-1]["kl_exact"] > 0.01
    assert {"copied", "similarity", "length_ratio", "reward/gain", "reward/value"} <= rows[0].keys()


@pytest.mark.parametrize("step, save", [(2, 3), (4, 1)], ids=["before a checkpoint", "after it"])
def test_killed_in_the_middle_of_a_step(short, tmp_path, step, save):
    """After its rollouts were sampled: the same rollouts, the same log, the same weights."""
    save = f"--config.stages.rl.save_steps={save}"
    flags = command(tmp_path, save, config=f"{CONFIG}:short", quick=False)
    how = dict(cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(flags, **how)
    sampled = tmp_path / "rl" / "rollouts" / f"part-0-{step:06d}.jsonl"
    while process.poll() is None and not sampled.is_file():
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "rl" / "done.json").exists()
    before = [r["meta"]["drawn"] for r in records(sampled)]
    again = done(tmp_path, "short", save)
    assert ("continuing after step" in again.stdout) == (step == 4)
    assert [r["meta"]["drawn"] for r in records(sampled)] == before
    a, b = weights(short[0]), weights(tmp_path)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    same = lambda rows: [{k: v for k, v in r.items() if "seconds" not in k} for r in rows]  # noqa: E731
    assert same(log(tmp_path)) == same(log(short[0]))
    assert records(tmp_path / "rl" / "records.jsonl") == records(short[0] / "rl" / "records.jsonl")


@pytest.mark.slow
def test_several_devices(short, tmp_path):
    """A mesh of four: the first step is the same up to rounding."""
    done(tmp_path, "short", "--cpu_devices=4", "--config.mesh.fsdp=4")
    a, b = log(short[0])[0], log(tmp_path)[0]
    assert b["kl_k1"] == 0 and b["sampler_difference_max"] < 1e-3
    for name in ("reward", "length", "loss", "grad_norm"):
        assert b[name] == pytest.approx(a[name], rel=1e-3), name


def test_a_reward_that_is_no_number(tmp_path):
    """The run stops; what was sampled is kept, and is what the next start learns from."""
    rule = "--config.stages.rl.rewards.value.rule=tests.stages.bandit:"
    said = told(run(tmp_path, "short", rule + "broken"))
    assert "gave the score nan" in said and "step 1" in said and "is kept in" in said
    sampled = tmp_path / "rl" / "rollouts" / "part-0-000001.jsonl"
    before = [r["meta"]["drawn"] for r in records(sampled)]
    assert len(before) == 18 and not log(tmp_path)


# --- mistakes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workdir with the stage before."""
    workdir = tmp_path_factory.mktemp("world")
    c = bandit_config("short")
    c.order = ("world",)
    run_recipe(c, str(workdir))
    return workdir


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"samples": 1}, "samples=1"),
        ({"mini_batches": 4}, "does not divide the 6 prompts"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"max_new_tokens": 64}, "max_new_tokens=64"),
        ({"options.kl_in": "reward"}, "loss or both"),
        ({"reference": ("best",)}, "rejected, chosen, response"),
        ({"reference": ("chosen",)}, "holds no preference"),
        ({"max_reference_tokens": 0}, "18 references too long"),
        ({"rewards.value.model": "world/model"}, "model and rule is set"),
        ({"rewards.value.rule": "", "rewards.value.model": "world/model"}, "score.safetensors"),
        ({"rewards.value.rule": "tests.stages.bandit:valve"}, "value"),
        ({"rewards.value.spread": 0.0}, "spread=0.0"),
        ({"estimator": "ppo"}, "rloo"),
        ({"lora.rank": 2, "lora.dropout": 0.1}, "lora.dropout"),
        ({"total_steps": 0}, "total_steps"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_mistakes(world, changed, said):
    """Each is told before the stage begins."""
    c = bandit_config("short")
    c.stages.rl.update_from_flattened_dict(changed)
    with pytest.raises(UserError, match=re.escape(said)):
        run_recipe(c, str(world))
    assert not (world / "rl" / "stage.json").exists()


def test_a_reward_called_like_the_monitor(world):
    c = bandit_config("short")
    c.stages.rl.rewards.monitor = c.stages.rl.rewards.value
    with pytest.raises(UserError, match="give the reward another name"):
        run_recipe(c, str(world))


def test_other_tokens(world, tmp_path):
    """Of the reference, or of a reward model: it could not read what the policy writes."""
    other = tmp_path / "other"
    shutil.copytree(world / "world" / "model", other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"hen"', '"hex"'))
    shape = ModelConfig.from_hf(read_hf_config(str(other)), "other")
    head = {"kernel": np.zeros(shape.d_model, np.float32)}
    for name, content in head_files(head, {"kind": "reward", "offset": 0.0, "spread": 1.0}).items():
        (other / name).write_bytes(content)
    c = bandit_config("short")
    for path, said in ((str(other), "one vocabulary"), ("/nowhere", "/nowhere")):
        del c.stages.rl.kl_to
        c.stages.rl.kl_to = path
        with pytest.raises(UserError, match=said):
            run_recipe(c, str(world))
    c = bandit_config("short")
    c.stages.rl.rewards.value.update(rule="", model=str(other))
    with pytest.raises(UserError, match="its tokenizer is not that of"):
        run_recipe(c, str(world))
