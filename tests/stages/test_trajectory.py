"""Twenty steps of CUT and of DPO through the real door, against an independent computation of the
same updates: torch, float64, one response at a time, transformers' own Llama and torch's AdamW."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, shared
from tests.stages.conftest import run_main

STEPS = 20
SETTINGS = dict(batch_examples=4, max_tokens=256, row_tokens=512, total_steps=STEPS)
RATE, BETAS, EPS, CLIP, WARMUP = 1e-4, (0.9, 0.999), 1e-8, 1.0, 5


def shortest(path: Path, count: int, length) -> list:
    """The shortest rows of a JSON array, by what `length` says."""
    return sorted(json.loads(path.read_text(encoding="utf-8")), key=length)[:count]


def flags(stage, data, stories):
    settings = {**SETTINGS, "total_epochs": 0, "log_every_steps": 1, "save_steps": 0}
    optimizer = {"learning_rate": RATE, "warmup_steps": WARMUP, "warmup_fraction": 0}
    optimizer |= {"decay": "linear", "clip_norm": CLIP}
    own = [f"--config.stages.{stage}.{k}={v}" for k, v in settings.items()]
    own += [f"--config.stages.{stage}.optimizer.{k}={v}" for k, v in optimizer.items()]
    own += [f"--config.stages.{stage}.eval_{unit}=0" for unit in ("steps", "epochs")]
    paths = [f"--config.data.path={data}", f"--config.model.path={stories}"]
    return [*paths, "--config.data.heldout_examples=0", *own]


def logged(workdir, stage):
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def batches_of(config: str, stage: str, data, stories):
    """The units of every step, as the train stage plans them."""
    from lfjax.doctor import examine
    from lfjax.sharding import make_mesh

    path, _, variant = config.partition(":")
    c = runpy.run_path(str(ROOT / path))["get_config"](variant)
    c.data.path, c.model.path, c.data.heldout_examples = str(data), str(stories), 0
    s = c.stages[stage]
    s.update(**SETTINGS, total_epochs=0.0, eval_steps=0, eval_epochs=0.0)
    study = examine(c, stage, make_mesh({"data": 8}), None)
    plan, units = study.batches.plan, study.batches.encoded.units
    return [[units[u].segments for u in plan.units_of(step)] for step in range(plan.steps)]


def recomputed(stories, steps, loss_of_step):
    """Losses before each update, all of it in float64."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(stories, dtype=torch.float64)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=BETAS, eps=EPS, weight_decay=0.0
    )

    def logps(segment):
        """Log-probabilities of a segment's targets."""
        ids = torch.tensor(segment.ids.tolist())
        logits = model(ids[None]).logits[0, :-1]
        every = torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), ids[1:]]
        return every[segment.first - 1 :]

    reference = None
    losses = []
    for n, units in enumerate(steps):
        if reference is None:
            with torch.no_grad():
                every = {id(s): s for step in steps for unit in step for s in unit}
                reference = {key: logps(s).sum() for key, s in every.items()}
        loss = loss_of_step(units, logps, reference)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        rate = RATE * n / WARMUP if n < WARMUP else RATE * (STEPS - n) / (STEPS - WARMUP)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


@pytest.mark.slow
def test_cut(tmp_path, iter1, stories):
    import torch

    rows = shortest(Path(iter1), 400, lambda r: len(str(r["output"])) + len(str(r["judgment"])))
    flawed = [r for r in rows if r["judgment"] not in (None, "$ERROR$")][:32]
    good = [r for r in rows if r["judgment"] is None][:8]
    data = tmp_path / "data.json"
    data.write_text(json.dumps([*flawed, *good]), encoding="utf-8")
    config = "configs/cut.py:stories260k"
    run = run_main(tmp_path, *flags("cut", data, stories), config=config, quick=False)
    assert run.returncode == 0, run.stderr

    def loss(units, logps, _):
        total = 0.0
        for segments in units:
            if len(segments) == 1:
                total = total - logps(segments[0]).mean()
                continue
            plain, judged = map(logps, segments)
            blamed = judged.detach() - plain.detach() > np.log(1.1)
            push = torch.log1p(-torch.exp(torch.clamp(plain, max=-1e-6)))
            total = total - (torch.where(blamed, push, plain).mean() + judged.mean()) / 2
        return total / len(units)

    expected = recomputed(stories, batches_of(config, "cut", data, stories), loss)
    found = logged(tmp_path, "cut")
    assert len(found) == STEPS and found[-4:].mean() < found[:4].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_dpo(tmp_path, stories):
    import torch

    def length(row):
        return sum(len(row[side]["value"]) for side in ("chosen", "rejected"))

    data = tmp_path / "data.json"
    pairs = shortest(shared("data/preferences/dpo_en_demo.json"), 40, length)
    data.write_text(json.dumps(pairs), encoding="utf-8")
    config = "configs/dpo.py:stories260k"
    run = run_main(tmp_path, *flags("dpo", data, stories), config=config, quick=False)
    assert run.returncode == 0, run.stderr

    def loss(units, logps, reference):
        each = []
        for chosen, rejected in units:
            above = [logps(s).sum() - reference[id(s)] for s in (chosen, rejected)]
            each.append(-torch.nn.functional.logsigmoid(0.1 * (above[0] - above[1])))
        return torch.stack(each).mean()

    expected = recomputed(stories, batches_of(config, "dpo", data, stories), loss)
    found = logged(tmp_path, "dpo")
    assert found[0] == pytest.approx(np.log(2), abs=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
