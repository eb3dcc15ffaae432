"""The recipe of a judgment model, from judgments to a model aligned by its own judge."""

import json

import pytest

from tests.conftest import write_jsonl
from tests.stages.conftest import run_main

SAD = ("sad", "angry", "lost", "cold", "sick", "hurt", "afraid", "lonely")
GLAD = ("happy", "kind", "proud", "calm", "warm", "brave", "good", "funny")
WHO = ("cat", "dog", "girl", "boy", "bird", "bear")


def lessons():
    """Sad answers are judged, and glad ones are perfect."""
    rows = []
    for who in WHO:
        for mood in (*SAD, *GLAD):
            said = f"It is {mood}." if mood in SAD else ""
            response = f"The {who} was {mood}."
            row = {"prompt": f"Tell of the {who}.", "response": response, "judgment": said}
            rows.append(row)
    return rows


@pytest.mark.slow
def test_judge_and_judged(stories, tmp_path):
    data, prompts = tmp_path / "judgments.jsonl", tmp_path / "prompts.jsonl"
    write_jsonl(data, lessons())
    write_jsonl(prompts, [{"prompt": f"Tell of the {who}."} for who in WHO])
    small = dict(dtype="float32", max_tokens=512)
    flags = {
        "data.path": data,
        "data.source": "jsonl",
        "prompts.path": prompts,
        "model.path": stories,
        "stages.judge.optimizer.learning_rate": 3e-3,
        "stages.judge.optimizer.warmup_steps": 5,
        "stages.judge.total_epochs": 12.0,
        "stages.cut.total_epochs": 1.0,
        "stages.cut.data.downsample": -1.0,  # a judge as small as this may find no fault
        "stages.answers.max_new_tokens": 12,
        "stages.judged.max_new_tokens": 24,
    }
    for stage in ("judge", "cut"):
        flags |= {f"stages.{stage}.{k}": v for k, v in small.items()}
        flags |= {
            f"stages.{stage}.lora.rank": 0,
            f"stages.{stage}.remat": "none",
            f"stages.{stage}.row_tokens": 1024,
        }
    for stage in ("answers", "judged"):
        flags |= {f"stages.{stage}.{k}": v for k, v in small.items()}
    run = run_main(
        tmp_path / "run",
        *(f"--config.{name}={value}" for name, value in flags.items()),
        config="configs/judgment_model.py",
        quick=False,
    )
    assert run.returncode == 0, run.stderr + run.stdout[-2000:]
    done = json.loads((tmp_path / "run" / "judged" / "done.json").read_text())["headline"]
    assert done["judged"] >= len(WHO) / 2, done
    rows = (tmp_path / "run" / "judged" / "records.jsonl").read_text().splitlines()
    said = [json.loads(row)["feedback"] for row in rows]
    assert all(f[0]["author"] for f in said if f)
    assert (tmp_path / "run" / "cut" / "hf" / "model.safetensors").is_file()
