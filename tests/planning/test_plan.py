"""A recipe compiled for TPUs that are not here. Where the TPU compiler (libtpu) is not installed,
only what comes before it is tested."""

import importlib.util
import json
import subprocess
import sys

import pytest

from lfjax.errors import UserError
from lfjax.planning import chips
from lfjax.planning.measure import REFUSED
from lfjax.planning.shapes import shape_of


def plan(*args: str) -> subprocess.CompletedProcess:
    """`python -m lfjax.plan`, in a process of its own: libtpu stays loaded."""
    command = [sys.executable, "-m", "lfjax.plan", *args]
    return subprocess.run(command, capture_output=True, text=True)


def test_shapes_by_name():
    assert shape_of("meta-llama/Llama-2-13b-chat-hf").d_mlp == 13824
    assert shape_of("allenai/tulu-2-70b").n_kv_heads == 8
    assert shape_of("meta-llama/Meta-Llama-3-8B-Instruct").vocab_size == 128256
    with pytest.raises(UserError, match=r"config\.json alone"):
        shape_of("someone/unknown-7b")


def test_no_such_topology():
    with pytest.raises(UserError, match="unknown chip 'v5x'"):
        chips.find_topology("v5x:4x4")
    with pytest.raises(UserError, match="such as v5p:4x4x8"):
        chips.find_topology("v5e:16")


def test_number_of_gpus():
    with pytest.raises(UserError, match="such as h100:8"):
        chips.find_topology("h100:2x2")
    with pytest.raises(UserError, match="at most 128"):
        chips.find_topology("a100:1000")


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\.\[tpu\]"):
        chips.find_topology("v5e:4x4")


@pytest.mark.slow
def test_a_train_step(tiny, tpu_compiler):
    """Memory and FLOPs of a small step against what its shapes say."""
    args = ("--config=configs/sft.py:llama2_13b", f"--config.model.path={tiny}")
    sizes = [f"--config.stages.sft.{name}_tokens=64" for name in ("row", "max")]
    found = plan(*args, *sizes, "--topology=v5e:4x4", "--json")
    assert found.returncode == 0, found.stderr
    (step,) = json.loads(found.stdout)["programs"]
    matrices = 2 * 32000 * 512 + 4 * (4 * 512 * 512 + 3 * 512 * 1024)
    split = 4 * (matrices / 16 + 9 * 512)  # norms are on every chip
    assert step["parts"]["parameters"] == pytest.approx(split)
    assert step["parts"]["optimizer"] == pytest.approx(2 * split, rel=1e-5)
    assert step["argument_bytes"] == pytest.approx(sum(step["parts"].values()), rel=0.02)
    assert step["replicated"] < 0.02
    # Forward, backward, and the forward once more; the head is not computed a third time.
    assert 1.0 < step["executed_flops"] / step["model_flops"] < 1.5
    assert step["unknown_loops"] == 0
    assert step["collectives"]["all-gather"]["calls"] >= 4  # weights, in every layer


def test_topology_that_is_not_made(tpu_compiler):
    found = plan("--config=configs/sft.py:llama2_7b", "--topology=v5e:3x5")
    assert found.returncode == 2 and "v5e:3x5" in found.stderr + found.stdout
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "message",
    (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (16.27G) exceeds available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.27G of 15.75G hbm.",
    ),
)
def test_what_is_refused(message):
    assert REFUSED.search(message).groups() == ("16.27", "G", "15.75", "G")
