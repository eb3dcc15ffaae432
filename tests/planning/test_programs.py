"""Programs of stages on eight simulated devices: which there are, what they are given, and what is
on the devices besides. Most are lowered at the most."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import pytest

from configs import cut, pit, srt
from lfjax.planning.chips import GIB, Chip
from lfjax.planning.measure import _bytes, measure, remedies
from lfjax.planning.programs import programs_of
from lfjax.planning.tell import told
from lfjax.sharding import make_mesh

MATRICES = 2 * 32000 * 512 + 4 * (4 * 512 * 512 + 3 * 512 * 1024)
NORMS = 9 * 512
FLOAT32 = 4 * (MATRICES / 8 + NORMS)  # of one device; norms are on every one
BFLOAT16 = FLOAT32 / 2
CHIP = Chip(flops=1e12, hbm_bytes=16.0 * GIB, hbm_rate=1e12, link_rate=1e11)


def programs(config, path: str, stage: str, **mesh):
    """By name; `mesh` are sizes of its axes."""
    config.model.path = path
    config.mesh.update(mesh)
    found = programs_of(config, stage, make_mesh(dict(config.mesh)), 0)
    return {p.name: p for p in found}


def lower(program):
    with jax.sharding.use_abstract_mesh(program.mesh.abstract_mesh):
        return program.function.lower(*program.args)


# --- which there are --------------------------------------------------------------------------


@pytest.fixture
def easy(tiny):
    """Of an rl stage: a gap reward in float32, the rest but the trained parameters in bfloat16."""
    return programs(pit.get_config("hh_7b"), tiny, "easy")


def test_rl_programs(easy):
    names = ["prefill", "decode", "log-probabilities", "train step", "scores of gap"]
    assert list(easy) == names
    for program in easy.values():
        lower(program)  # its shardings go together


def test_what_is_resident_in_rl(easy):
    """Everything that the stage keeps, but for what a program is given."""
    state, adam = {"parameters": FLOAT32}, {"optimizer": 2 * FLOAT32 + 4}
    reference = {"reference": BFLOAT16}
    reward = {"reward 'reward'": FLOAT32 + 4 * 512}  # and its head
    cache = easy["decode"].args[1]
    found = {
        name: {what: _bytes(tree) for what, tree in program.resident.items()}
        for name, program in easy.items()
    }
    always = state | adam | reference | reward
    for name, expected in {
        "prefill": {"cache": _bytes(cache)} | always,
        "decode": always,
        "log-probabilities": adam | reward,
        "train step": reward,
        "scores of gap": state | adam | reference,
    }.items():
        assert found[name] == pytest.approx(expected, rel=1e-4), name


def test_the_monitor_and_a_judge_are_resident(tiny):
    config = pit.get_config("hh_7b")
    block = config.stages.easy.rewards.reward
    config.stages.easy.monitor.monitor = block.copy_and_resolve_references()
    found = programs(config, tiny, "easy")
    assert list(found["train step"].resident) == ["reward 'reward'", "reward 'monitor'"]
    block.model = tiny  # of no stage
    step = programs(config, tiny, "easy")["train step"]
    assert _bytes(step.resident["reward 'reward'"]) == pytest.approx(FLOAT32)


def test_reference_pass(tiny):
    found = programs(srt.get_config("tulu2_7b"), tiny, "stage2")
    assert list(found) == ["train step", "reference pass"]
    assert not any(p.resident for p in found.values())
    lower(found["reference pass"])


def test_sampling_programs(tiny):
    config = srt.get_config("tulu2_7b")
    config.stages.own_drafts.slots = 9
    found = programs(config, tiny, "own_drafts", fsdp=4, tensor=2)
    assert found["decode"].tokens == 12  # as the engine rounds slots
    assert "12 slots" in found["decode"].about
    assert list(found["prefill"].resident) == ["cache"]
    for program in found.values():
        lower(program)


def test_asking_a_server_compiles_nothing(tiny):
    assert not programs(srt.get_config("tulu2_7b"), tiny, "critiques")


# --- rows -------------------------------------------------------------------------------------


def test_rows_that_no_example_fills(tiny):
    """They are no work of the model's."""
    config = cut.get_config("llama2_13b_chat_online")
    config.stages.cut.batch_examples = 4
    wide = programs(config, tiny, "cut", fsdp=8)["train step"]
    full = programs(config, tiny, "cut", fsdp=4, tensor=2)["train step"]
    assert wide.about == "8 rows × 4,096 tokens, 4 of them filled"
    assert full.about == "4 rows × 4,096 tokens"
    assert wide.tokens == full.tokens == 4 * 4096
    assert wide.model_flops == full.model_flops


def test_rollouts_that_do_not_fill_rows(tiny):
    config = pit.get_config("hh_7b")
    config.stages.easy.update(prompts=3, samples=2)
    step = programs(config, tiny, "easy")["train step"]
    assert step.about == "8 rows × 3,072 tokens, 3 of them filled" and step.tokens == 3 * 3072


# --- what fits --------------------------------------------------------------------------------


def test_what_is_resident_has_to_fit(tiny):
    """A chip that the program alone would fit."""
    config = pit.get_config("hh_7b")
    config.stages.gap.max_tokens = 32
    program = programs(config, tiny, "easy")["scores of gap"]
    alone = measure(replace(program, resident={}), CHIP)
    assert alone.fits and alone.needed_bytes == alone.peak_bytes
    small = replace(CHIP, hbm_bytes=alone.peak_bytes + 1e6)
    found = measure(program, small)
    assert found.peak_bytes == alone.peak_bytes and not found.fits
    assert found.to_json(small)["needed_bytes"] > small.hbm_bytes
    text = "\n".join(told(found, small))
    assert "DOES NOT FIT" in text and "optimizer" in text and "what is resident" in text


def test_remedies(easy):
    c = easy["decode"].config
    c.update(dtype="float32", remat="none", rollout_dtype="float32", kl_dtype="float32")
    assert remedies(easy["decode"], 1e9)[:2] == ("rollout_dtype=bfloat16", "fewer slots")
    found = remedies(easy["train step"], 1e9)
    assert found[:3] == ("dtype=bfloat16", "remat=full", "micro_batches=2 (a chip has 32 rows)")
    assert "kl_dtype=bfloat16" in found and "more chips" in found[-1]


# --- the command ------------------------------------------------------------------------------

ON_CPU = """
import jax
from lfjax.planning import chips
jax.config.update("jax_num_cpu_devices", 2)
chip = chips.Chip(1e12, 1e3, 1e12, 1e11)
chips.find_topology = lambda name, slices: (chip, jax.devices())
from lfjax.main import run
from lfjax.plan import main
run(main)
"""


def plan_on_cpu(path: str, *args: str) -> subprocess.CompletedProcess:
    """The command, where a chip has room for nothing."""
    given = ("--config=configs/pit.py:hh_7b", "--topology=none", f"--config.model.path={path}")
    command = [sys.executable, "-c", ON_CPU, *given, *args]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_stage_that_does_not_fit(tiny):
    few = ("--config.stages.own.max_tokens=64", "--config.stages.own.slots=1")
    found = plan_on_cpu(tiny, "--stage=own,folds", "--json", *few)
    assert found.returncode == 1, found.stderr
    answer = json.loads(found.stdout)
    assert [(p["stage"], p["program"]) for p in answer["programs"]] == [
        ("own", "prefill"),
        ("own", "decode"),
    ]
    assert answer["left_out"] == {"folds": "filter"}
    for program in answer["programs"]:
        assert not program["fits"] and "fewer slots" in program["help"]


def test_no_such_stage(tiny):
    found = plan_on_cpu(tiny, "--stage=owm")
    assert found.returncode == 2 and "no stage 'owm'" in found.stderr + found.stdout


DESCRIBE = """
from lfjax.plan import on_cpu
on_cpu()
from configs import srt
from lfjax.errors import UserError
from lfjax.planning.chips import find_topology
from lfjax.planning.programs import programs_of
from lfjax.sharding import make_mesh
for name, slices in (("h100:3", 1), ("v4:2x2x2", 1), ("v5e:4x4", 2)):
    chip, devices = find_topology(name, slices)
    print(len(devices), devices[0].device_kind, chip.stands_in)
print(dict(make_mesh(dict(data=2, fsdp=-1), devices).shape))
c = srt.get_config("tulu2_7b")
c.stages.own_drafts.per_host = True
programs = programs_of(c, "own_drafts", make_mesh(dict(c.mesh), find_topology("v5p:2x2x2")[1]), 0)
print([p.about.rpartition(", ")[2] for p in programs])
try:
    find_topology("h100:8", 2)
except UserError as error:
    print(error)
"""


def test_chips_that_the_compiler_describes(tpu_compiler):
    """GPUs stood in for, cores of v4 in pairs, two slices, and the host of a stage that has one."""
    run = subprocess.run([sys.executable, "-c", DESCRIBE], capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        "3 TPU v5 v5p",
        "8 TPU v4 ",
        "32 TPU v5 lite ",
        "{'data': 2, 'fsdp': 16, 'seq': 1, 'tensor': 1}",
        str(["on the 4 chip(s) of a host"] * 2),
        "--slices=2: slices are of TPUs; give the number of all GPUs.",
    ], run.stderr
