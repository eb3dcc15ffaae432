"""Checkpoints: what is kept, and that saving does not eat memory."""

import jax
import jax.numpy as jnp
import numpy as np

from lfjax.training.checkpoint import Checkpoints


def state(step, size=8):
    return {"step": jnp.asarray(step), "x": jnp.full(size, float(step))}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def test_newest_and_best_are_kept_over_a_restart(tmp_path):
    """A restarted run still knows which checkpoint was the best."""
    first = Checkpoints(tmp_path, keep=1, best="heldout/loss")
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        first.save(step, state(step), {"seconds": 0.0}, {"heldout/loss": loss, "loss": 9.0})
    first.close()
    second = Checkpoints(tmp_path, keep=1, best="heldout/loss")
    second.save(4, state(4), {"seconds": 0.5}, {"loss": 0.1})
    second.save(5, state(5), {"seconds": 0.5}, {"heldout/loss": 1.5})
    assert second.best_step() == 2 and second.latest() == 5
    restored = second.restore(2, abstract(state(0)))
    np.testing.assert_array_equal(restored["x"], state(2)["x"])
    second.close()
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 5]


def test_meta_stands_beside_the_state(tmp_path):
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(3, state(3), {"seconds": 1.5, "template": "{{ x }} é"})
    saved.wait()
    assert saved.meta(3) == {"seconds": 1.5, "template": "{{ x }} é"}
    assert saved.best_step() is None
    saved.close()


def test_memory_stays_flat(tmp_path):
    """Fifty saves of 8 MB leave no more than three of them behind in host memory."""

    def resident():
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * 4096

    size = 2**21
    saved = Checkpoints(tmp_path, keep=1)
    for step in range(60):
        saved.save(step, state(step, size), {"seconds": 0.0})
        if step == 9:
            saved.wait()
            before = resident()
    saved.wait()
    assert resident() - before < 3 * 4 * size
    saved.close()
