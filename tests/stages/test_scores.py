"""Reward and gap models through the real door: what they learn, what lies beside their weights,
and scores that depend on the text alone."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from lfjax.data.records import Candidate, Message, Record
from lfjax.data.rows import Rows, encode_records, place
from lfjax.data.views import GAPS, IMPROVE_REQUEST
from lfjax.errors import UserError
from lfjax.methods.gap import METHOD, pairings
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import Decoder
from lfjax.models.scalar import score_fn
from lfjax.sharding import AXES, make_mesh
from lfjax.stages.scoring import load_scorer
from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import run_main

DEMO = ROOT / "lfjax" / "lab" / "demo"
FOODS = ("seeds", "fish", "roots")
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
        for food in FOODS
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


def compared(animal, food, exchanged=False):
    """A pair, perhaps with the worse side called the better one."""
    sides = (
        Candidate(text.format(animal, food), preferred=preferred != exchanged)
        for text, preferred in ((GOOD, True), (BAD, False))
    )
    return replace(record(animal, None), candidates=tuple(sides))


def as_triples(scorer, records):
    """(scores, rows), as in training, a record in each row."""
    how = dict(max_tokens=128, row_tokens=512)
    views = METHOD.views_of(METHOD.options)
    encoded = encode_records(records, views, scorer.tokenizer, scorer.template, **how)
    rows = Rows.empty(len(records), 512, 4)
    for row, unit in enumerate(encoded.units):
        place(rows, unit, row, 0, 1, "pair")
    rows = jax.tree.map(jnp.asarray, rows)
    return scorer.forward(scorer.params, rows), rows


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
    done = json.loads((gap / "done.json").read_text())
    meaning = json.loads((gap / "hf" / "score.json").read_text())
    assert -1 <= meaning["antisymmetry"] <= 1
    assert done["headline"]["antisymmetry"] == meaning["antisymmetry"]


def test_what_is_gained_one_way_is_lost_the_other():
    """Of held-out pairs. Without it a gap reward that reads the candidate alone is calibrated like
    one that compares."""
    gain = np.array([1.0, 2.0, 4.0, 3.0])
    kind = np.tile(GAPS, 4)

    def antisymmetry(back):
        zero = np.zeros(4)
        scores = np.stack([gain, zero, zero, back], axis=-1).ravel()
        return METHOD.calibrate(scores, kind, of="texts")["antisymmetry"]

    assert antisymmetry(5 - gain) == pytest.approx(1)
    assert antisymmetry(gain) == pytest.approx(-1)
    assert antisymmetry(np.array([-1.0, -2.0, -3.0, -4.0])) == pytest.approx(0.8)
    assert antisymmetry(np.zeros(4)) == 0  # it does not vary


def test_what_was_trained_scores_the_same_when_it_is_read_again(gap, one_device):
    """Calibration ran on packed rows of the trainer, the scorer has one text a row."""
    meaning = json.loads((gap / "hf" / "score.json").read_text())
    scorer = load_scorer(str(gap / "hf"), one_device, policy=str(DEMO))
    good = [record(a, GOOD.format(a, f), GOOD.format(a, f)) for a in ANIMALS for f in FOODS]
    bad = [record(a, BAD.format(a, f), BAD.format(a, f)) for a in ANIMALS for f in FOODS]
    better = [record(a, BAD.format(a, f), GOOD.format(a, f)) for a in ANIMALS for f in FOODS]
    worse = [record(a, GOOD.format(a, f), BAD.format(a, f)) for a in ANIMALS for f in FOODS]
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
    """Alone, among longer texts, on several devices."""
    scorer = load_scorer(str(reward / "hf"), one_device)
    records = [record(a, GOOD.format(a, "seeds " * n)) for n, a in enumerate(ANIMALS, 1)]
    together = scorer(records)
    alone = np.concatenate([scorer([r]) for r in records])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    wide = load_scorer(str(reward / "hf"), make_mesh({"data": 2, "fsdp": 4}))
    np.testing.assert_allclose(wide(records), alone, atol=1e-5)


@pytest.mark.parametrize("name", ["reward", "gap"])
def test_a_trunk_in_bfloat16(name, one_device, request):
    """Without it a reward in bfloat16 may be another one, or its head may round, too.

    Scores are within 1e-3 of float32 in the mean over texts (measured: 0.0004 of the reward, 0.0008
    of the gap), not text by text: bfloat16 keeps 8 bits, so that one number of size 1 alone is
    rounded by up to 0.002, and scores reach 1.7. Of one text they are within 2⁻⁸ of the spread of
    scores (measured: 0.0011 and 0.0027, which are 0.0008 and 0.0028 spreads).
    """
    path = str(request.getfixturevalue(name) / "hf")
    whole = load_scorer(path, one_device)
    half = load_scorer(path, one_device, dtype="bfloat16")
    sides = [(GOOD.format(a, f), BAD.format(a, f)) for a in ANIMALS for f in FOODS]
    if name == "reward":
        records = [record("fox", text) for pair in sides for text in pair]
    else:
        records = [record("fox", old, new) for pair in sides for new in pair for old in pair]
    apart = np.abs(half(records) - whole(records))
    assert 0 < apart.mean() < 1e-3
    assert apart.max() < 2**-8 * whole.spread


def test_the_head_is_float32_on_a_trunk_in_bfloat16(gap, one_device):
    """Without it a score has the 8 bits of the states that it is read from: good and better answers
    get the same."""
    scorer = load_scorer(str(gap / "hf"), one_device, dtype="bfloat16")
    _, rows = as_triples(scorer, [compared("fox", "fish")])
    params, head = scorer.params
    decoder = Decoder(ModelConfig.from_hf(read_hf_config(str(gap / "hf")), "gap"), "bfloat16")
    states, _ = decoder.apply({"params": params}, rows.tokens, rows.positions, rows.segment)
    assert states.dtype == jnp.bfloat16
    last = np.asarray(states[0, rows.score_at[0]], np.float64)
    exact = last @ np.asarray(head["kernel"], np.float64)
    found = np.asarray(score_fn(decoder)(params, head, rows))[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_exchanged_sides_of_what_was_learned(gap, one_device):
    """The better response called the worse one, in the data: pairings change places, and a trained
    gap reward loses. Without it a view may show one side in both places, or which one is better may
    be told by where it stands."""
    scorer = load_scorer(str(gap / "hf"), one_device)
    given = [(a, f) for a in ANIMALS for f in FOODS]
    losses = {}
    for exchanged in (False, True):
        triples = [compared(a, f, exchanged) for a, f in given]
        scores, rows = as_triples(scorer, triples)
        total, told = METHOD.loss(scores, rows, **METHOD.options)
        losses[exchanged] = float(total.sum / total.weight), told
        found = np.asarray(pairings(scores, rows))[:, 0]
        before = found if not exchanged else before
    np.testing.assert_allclose(found, before[:, ::-1], atol=1e-5)  # wl and lw, ww and ll
    (right, _), (wrong, told) = losses[False], losses[True]
    assert right < 5 * np.log(2) < wrong
    assert float(told["accuracy"].sum) == 0


def test_a_reference_is_not_cut_for_what_asks_for_a_response(gap, one_device):
    """As in training (tests/data/test_gap_views.py): without it the reward compares with the rest
    of a reference."""
    ask = "{% if add_generation_prompt %}" + "seeds " * 20 + "{% endif %}"
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}" + ask
    scorer = replace(load_scorer(str(gap / "hf"), one_device), template=template)
    good, bad = GOOD.format("fox", "fish"), BAD.format("fox", "fish")
    told = scorer.tokenizer.encode(f"{bad} {IMPROVE_REQUEST}")
    (whole, _), *_ = scorer._texts(record("fox", bad, good))
    for most in range(len(whole.ids), 0, -1):
        meaning = scorer.meaning | {"max_tokens": most}
        ((fitted, _),) = replace(scorer, meaning=meaning)._texts(record("fox", bad, good))
        if fitted is None:
            break
        kept = fitted
    assert kept.trimmed
    ids = kept.ids.tolist()
    assert any(ids[i : i + len(told)] == told for i in range(len(ids)))


def test_a_difference_of_rewards(pairs, tmp_path, one_device):
    run = run_scores(tmp_path, pairs, "gap", "--config.stages.gap.options.of=rewards")
    assert run.returncode == 0, run.stderr
    assert logged(tmp_path / "gap")[0]["loss"] == pytest.approx(5 * np.log(2), abs=1e-6)
    scorer = load_scorer(str(tmp_path / "gap" / "hf"), one_device)
    assert scorer.kind == "difference" and scorer.meaning["offset"] == 0
    assert scorer.meaning["antisymmetry"] == pytest.approx(1)
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
