"""The profiler's window."""

import jax
import jax.numpy as jnp
import pytest

from lfjax.errors import UserError
from lfjax.training.profile import Profile
from tests.stages.conftest import run_main


def traces(folder):
    return list(folder.rglob("*.xplane.pb"))


def steps_of(profile, count):
    add, x = jax.jit(lambda x: x + 1), jnp.zeros(())
    running = []
    with profile:
        for step in range(1, count + 1):
            profile(step, x)
            running.append(profile.running)
            x = add(x)
    return running


def test_window(tmp_path, capsys):
    assert steps_of(Profile(tmp_path, 2, 2), 5) == [False, True, True, False, False]
    assert len(traces(tmp_path)) == 1 and str(tmp_path) in capsys.readouterr().out


def test_a_window_that_the_run_ends_in_is_written(tmp_path):
    assert steps_of(Profile(tmp_path, 3, 10), 4)[-1]
    assert len(traces(tmp_path)) == 1


def test_none(tmp_path):
    assert not any(steps_of(Profile(tmp_path, 1, 0), 3)) and not traces(tmp_path)


@pytest.mark.parametrize("first, count", [(0, 2), (3, -1)])
def test_no_such_window(first, count, tmp_path):
    with pytest.raises(UserError, match="a step from 1"):
        Profile(tmp_path, first, count)


def test_by_config(tmp_path):
    window = ("profile_first_step=2", "profile_steps=2", "total_steps=4", "eval_steps=0")
    flags = [f"--config.stages.base.{setting}" for setting in window]
    done = run_main(tmp_path, *flags, "--config.stages.cut.total_steps=1")
    assert done.returncode == 0, done.stderr
    assert len(traces(tmp_path / "base" / "profile")) == 1
    assert not (tmp_path / "cut" / "profile").exists()
