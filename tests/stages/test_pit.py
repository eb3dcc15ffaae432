"""The PIT recipe through the real door, with next to no data: every stage, and what it leaves."""

import importlib.util
import json

import pytest

from lfjax.errors import UserError
from lfjax.stages.run import STAGES
from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import run_main

TRAINED = ("folds", "policy", "improver", "reward", "gap", "policy_rl", "easy", "own", "hard")


def config(variant):
    spec = importlib.util.spec_from_file_location("pit", ROOT / "configs" / "pit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


@pytest.mark.parametrize("variant", ["lab", "custom", "stories260k", "hh_7b", "summarize_7b"])
def test_variants_say_the_papers_program(variant):
    c = config(variant)
    order = list(c.order)
    program = [*TRAINED, "original"]
    assert [name for name in order if name in program] == program
    assert set(c.stages) == set(order)
    stages = c.stages
    assert stages.policy.options.target == "best" and stages.improver.options.target == "improve"
    assert (stages.reward.init, stages.gap.init) == ("policy", "improver")
    assert stages.easy.reference == ("rejected", "chosen") and stages.hard.reference == (
        "response",
    )
    assert stages.easy.kl_to == stages.hard.kl_to == "improver" and stages.hard.init == "easy"
    folds = {
        name: stages[name].data.path for name in ("policy", "improver", "reward", "gap", "easy")
    }
    assert folds == {
        "policy": "folds/sft",
        "improver": "folds/sft",
        "reward": "folds/rm",
        "gap": "folds/rm",
        "easy": "folds/rl",
    }
    for name in order:  # every stage reads what stands before it
        kind = stages[name].kind
        if kind in ("train", "generate", "improve", "rl", "filter") and variant == "lab":
            read = STAGES[kind][1](stages[name]).values()
            earlier = {source.partition("/")[0] for source in read}
            assert earlier <= set(order[: order.index(name)])


def test_unknown_variant():
    with pytest.raises(UserError, match="unknown variant 'labb'"):
        config("labb")


def test_a_judge_is_missed_before_anything_is_trained(tmp_path, stories):
    row = {"prompt": "Name a colour.", "chosen": "It is blue.", "rejected": "Seven."}
    data = write_jsonl(tmp_path / "pairs.jsonl", [row])
    flags = (f"--config.data.path={data}", f"--config.model.path={stories}")
    run = run_main(tmp_path / "w", *flags, config="configs/pit.py:custom", quick=False)
    assert run.returncode == 2 and "stage 'compare': nobody to ask" in run.stderr
    assert not (tmp_path / "w" / "folds").exists()


def test_pairs_that_are_left_out_are_told(tmp_path, stories):
    """Without it preferences disappear on their way into the folds, and nobody knows why."""
    rows = [
        {"prompt": f"Name {i}.", "chosen": f"It is {i}.", "rejected": "Seven."} for i in range(4)
    ]
    rows[2]["rejected"], rows[3]["rejected"] = "", rows[3]["chosen"]
    data = write_jsonl(tmp_path / "pairs.jsonl", rows)
    flags = (f"--config.data.path={data}", f"--config.model.path={stories}")
    flags += ("--config.data.on_error=skip",)
    run = run_main(tmp_path / "w", *flags, config="configs/pit.py:stories260k", quick=False)
    assert run.returncode == 2 and "do not fill" in run.stderr  # two pairs, which end it early
    told = [line.strip() for line in run.stdout.splitlines()]
    assert "left out: 1 chosen equals rejected" in told
    assert f"malformed, left out: {data}:3: field 'rejected' is empty; expected a text." in told


def test_a_judge_that_comes_too_late(tmp_path, stories):
    """Without it there is an AttributeError: who answers has no place in this recipe any more."""
    row = {"prompt": "Name a colour.", "chosen": "It is blue.", "rejected": "Seven."}
    data = write_jsonl(tmp_path / "pairs.jsonl", [row])
    flags = (f"--config.data.path={data}", f"--config.model.path={stories}")
    flags += ("--config.stages.hard.monitor.monitor.judge=score",)
    run = run_main(tmp_path / "w", *flags, config="configs/pit.py:stories260k", quick=False)
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert "reward 'monitor': judge=score came too late" in run.stderr
    assert "_monitored" in run.stderr and not (tmp_path / "w" / "folds").exists()


@pytest.mark.parametrize("variant", ["custom", "hh_7b", "summarize_7b"])
def test_a_judge_may_watch(variant):
    """The one that compares, at every tenth step, and nothing else is changed. Without it nobody
    tells on real data that the gap reward is wrong."""
    c = config(f"{variant}_monitored")
    if variant == "custom":
        c.judge.update(url="http://served", model="judge")
    for name in ("easy", "hard"):
        stage = c.stages[name]
        judge = stage.monitor.monitor
        assert (judge.judge, stage.monitor_steps) == ("score", 10)
        asked = c.stages.compare.endpoint
        assert (judge.endpoint.url, judge.endpoint.model) == (asked.url, asked.model)
        assert asked.url and "reward/monitor" not in STAGES["rl"][1](stage)
    assert not c.stages.policy_rl.monitor.monitor.judge
    plain, watched = (config(v).stages for v in (variant, f"{variant}_monitored"))
    for name in ("policy_rl", "easy", "hard"):
        watched[name].monitor, watched[name].monitor_steps = plain[name].monitor, 1
    assert watched.to_dict() == plain.to_dict()


@pytest.mark.slow
def test_smoke(tmp_path):
    run = run_main(tmp_path, config="configs/claims_pit.py:smoke", quick=False)
    assert run.returncode == 0, run.stderr

    def lines(path):
        return [json.loads(line) for line in (tmp_path / path).read_text().splitlines()]

    folds = {
        name: {r["prompt"][0]["content"] for r in lines(f"s0_folds/{name}.jsonl")}
        for name in ("sft", "rm", "rl")
    }
    assert sum(map(len, folds.values())) == len(set.union(*folds.values())) == 360
    gate = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert set(gate) == {"gate", "at_least", "passed"}
    meaning = json.loads((tmp_path / "s0_gap" / "hf" / "score.json").read_text())
    assert meaning["kind"] == "gap" and set(meaning["means"]) == {"wl", "ww", "ll", "lw"}
    # A chain: each step improves what the one before has made.
    first, second = ({r["id"]: r for r in lines(f"s0_by_hard/step{k}.jsonl")} for k in (1, 2))
    assert second and all(r["response"] == first[i]["refinement"] for i, r in second.items())
    results = json.loads((tmp_path / "compare" / "results.json").read_text())
    systems = {"original", "by_hard_1", "by_hard_5", "by_easy", "self_refined_5", "self_at_060"}
    assert systems <= set(results["systems"])
    claims = json.loads((tmp_path / "claims" / "claims.json").read_text())
    assert len(claims) == 27
    ordered = json.loads((tmp_path / "ordering" / "results.json").read_text())["systems"]
    assert set(ordered) == {"wl", "ww", "ll", "lw"}
    watched = json.loads((tmp_path / "s0_watched" / "results.json").read_text())
    assert "agreement" in watched["systems"]["by_hard_1"]
