"""Mesh and rules: everything of a model is placed, nothing large is replicated, and misfits are
named."""

import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from lfjax.errors import UserError
from lfjax.models.decoder import abstract_lora, abstract_params
from lfjax.models.lora import LoraConfig
from lfjax.models.quantize import quantised
from lfjax.models.scalar import abstract_head
from lfjax.sharding import (
    AXES,
    TRAIN_RULES,
    _over_slices,
    axis_size,
    constrain,
    make_mesh,
    path_str,
    put,
    tree_shardings,
)
from lfjax.training.optimizer import make_optimizer
from lfjax.training.step import abstract_state, new_state
from tests.models.small import lively_params, small

SHAPE = dict(data=2, fsdp=2, tensor=2)


# --- meshes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, sizes",
    [
        (dict(data=1, fsdp=-1, tensor=1), (1, 8, 1, 1)),
        (dict(fsdp=8), (1, 8, 1, 1)),
        (dict(tensor=2, data=-1), (4, 1, 1, 2)),
        (dict(tensor=-1, fsdp=4, data=2), (2, 4, 1, 1)),
        (dict(seq=4, fsdp=-1), (1, 2, 4, 1)),
        (SHAPE, (2, 2, 1, 2)),
    ],
)
def test_mesh(asked, sizes):
    mesh = make_mesh(asked)
    assert mesh.axis_names == AXES and tuple(mesh.shape.values()) == sizes
    assert axis_size(mesh, ("data", "fsdp")) == sizes[0] * sizes[1]
    assert axis_size(mesh, "tensor") == sizes[3] and axis_size(mesh, None) == 1


@pytest.mark.parametrize(
    "asked",
    [
        dict(),
        dict(data=3),
        dict(data=3, fsdp=-1),
        dict(data=16),
        dict(data=-1, fsdp=-1),
        dict(data=0, fsdp=-1),
        dict(data=-2, fsdp=-4),
    ],
)
def test_mesh_that_does_not_fit(asked):
    with pytest.raises(UserError, match=r"does not fit the 8 device\(s\) found.*multiply to 8"):
        make_mesh(asked)


def test_unknown_axis():
    with pytest.raises(UserError, match=r"unknown axis \['model'\]; the axes are data, fsdp, seq"):
        make_mesh(dict(model=8))


@dataclass(frozen=True)
class Chip:
    """A device of a slice that is not here."""

    id: int
    slice_index: int
    platform: str = "gpu"  # so that jax asks for no coordinates
    device_kind: str = "none"
    process_index: int = 0


SLICES = [Chip(i, i % 2) for i in range(8)]


def test_only_data_crosses_slices():
    """Fsdp and tensor stay within a slice, and the outer part of data is the slice."""
    devices = _over_slices([4, 1, 1, 2], 2, SLICES)
    assert [[d.slice_index for d in part.flat] for part in devices] == [[0, 0]] * 2 + [[1, 1]] * 2
    assert sorted(d.id for d in devices.flat) == list(range(8))


def test_a_mesh_that_would_split_a_model_over_slices():
    with pytest.raises(UserError, match=r"2 slices.*mesh\.data=1.*a multiple of 2"):
        _over_slices([1, 8, 1, 1], 2, SLICES)


def test_meshes_of_real_chips(tpu_compiler):
    """Two slices of v5e, and chips of which an axis has a part of a side: described by the compiler
    in a process of its own."""
    program = (
        "from lfjax.plan import on_cpu; on_cpu()\n"
        "from lfjax.planning.chips import find_topology; find_topology('v5e:4x4')\n"
        "from jax.experimental.topologies import get_topology_desc as describe\n"
        "from lfjax.sharding import make_mesh\n"
        "chips = describe(platform='tpu', topology_name='v5e:4x4', num_slices=2).devices\n"
        "mesh = make_mesh(dict(data=2, fsdp=-1), chips)\n"
        "print([{d.slice_index for d in part.flat} for part in mesh.devices], dict(mesh.shape))\n"
        "chips = describe(platform='tpu', topology_name='v6e:4x4').devices\n"
        "print(dict(make_mesh(dict(fsdp=-1, tensor=2), chips).shape))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.splitlines()[-2:] == [
        "[{0}, {1}] {'data': 2, 'fsdp': 16, 'seq': 1, 'tensor': 1}",
        "{'data': 1, 'fsdp': 8, 'seq': 1, 'tensor': 2}",
    ], run.stderr


# --- rules ------------------------------------------------------------------------------------


MODELS = {"untied": small(), "tied": small(tied=True), "biased": small(qkv_bias=True)}


@pytest.fixture(scope="module", params=MODELS)
def state(request):
    """A model's abstract state on data 2 × fsdp 2 × tensor 2."""
    tx = make_optimizer(
        ConfigDict(
            dict(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, clip_norm=1.0, mu_dtype="float32")
        )
    )
    config = MODELS[request.param]
    return config, tx, abstract_state(abstract_params(config), tx, make_mesh(SHAPE))


def test_everything_of_a_state_is_placed(state):
    """Kernels and tables are split over fsdp and tensor, moments exactly as their parameters."""
    _, _, abstract = state
    params = {path_str(p): x for p, x in jax.tree_util.tree_leaves_with_path(abstract.params)}
    moments = jax.tree_util.tree_leaves_with_path(abstract.opt_state)
    seen = dict.fromkeys(params, 0)
    for path, x in moments:
        name = path_str(path)
        of = next((p for p in params if name.endswith(f"mu/{p}") or name.endswith(f"nu/{p}")), None)
        if of is None:
            assert name.endswith("count") and x.shape == ()
        else:
            seen[of] += 1
            assert (x.shape, x.sharding) == (params[of].shape, params[of].sharding)
    assert set(seen.values()) == {2}


def test_nothing_large_is_replicated(state):
    """What is not in quarters is a norm's scale, a bias or a counter."""
    config, _, abstract = state
    for path, x in jax.tree_util.tree_leaves_with_path(abstract):
        whole, part = np.prod(x.shape), np.prod(x.sharding.shard_shape(x.shape))
        if x.ndim < 2 or re.search("norm|bias", path_str(path)):
            assert whole <= config.n_layers * config.d_model, path_str(path)
        else:
            assert part == whole / 4, path_str(path)


def test_state_is_born_on_its_shards(state):
    config, tx, abstract = state
    shardings = jax.tree.map(lambda s: s.sharding, abstract)
    params = jax.tree.map(jax.device_put, lively_params(config), shardings.params)
    born = new_state(params, tx, shardings)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), born) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), abstract
    )


def test_every_rule_is_needed():
    """Without it, something of a model with biases and adapters has no place."""
    params = abstract_params(MODELS["biased"])
    lora = abstract_lora(MODELS["biased"], LoraConfig(4, 8.0, pattern="."))
    score = abstract_head(MODELS["biased"])
    tree = {"params": params, "lora": lora, "score": score}
    tree["frozen"] = jax.eval_shape(partial(quantised, kind="nf4"), params)
    tree["step"] = jax.ShapeDtypeStruct((), np.int32)
    mesh = make_mesh(SHAPE)
    tree_shardings(tree, mesh)
    for rule in TRAIN_RULES:
        with pytest.raises(UserError, match="no rule matches"):
            tree_shardings(tree, mesh, [r for r in TRAIN_RULES if r is not rule])


def test_unmatched_parameter():
    tree = {"layers": {"attn": {"gate": {"bias": jax.ShapeDtypeStruct((2, 8), np.float32)}}}}
    with pytest.raises(UserError, match=r"no rule matches .*'layers/attn/gate/bias' \(2, 8\)"):
        tree_shardings(tree, make_mesh(SHAPE))


def test_first_match_wins():
    tree = {"a": jax.ShapeDtypeStruct((8,), np.float32)}
    found = tree_shardings(tree, make_mesh(SHAPE), [("a$", P("fsdp")), ("a", P("data"))])
    assert found["a"].spec == P("fsdp")


def test_indivisible():
    with pytest.raises(UserError) as error:
        tree_shardings(abstract_params(small(vocab_size=90)), make_mesh(dict(tensor=4, data=2)))
    assert "'embed/embedding' (90, 32) has a dimension of 90" in str(error.value)
    assert "4 parts (mesh axis tensor) do not divide" in str(error.value)


# --- placement --------------------------------------------------------------------------------


def test_put():
    """Numbers arrive as they were, rows over data and fsdp."""
    host = {"x": np.arange(32.0, dtype=np.float32).reshape(8, 4), "y": np.arange(4)}
    found = put(host, make_mesh(SHAPE), P(("data", "fsdp")))
    for name, x in host.items():
        assert np.array_equal(found[name], x)
        assert found[name].sharding.shard_shape(x.shape)[0] == len(x) // 4


def test_constrain_outside_of_a_mesh():
    x = jax.numpy.ones((3, 5))
    assert constrain(x, "tensor", None) is x


def test_seq_is_left_out_where_it_does_not_divide():
    """Of the one token that is decoded, or of fewer heads."""
    with jax.set_mesh(make_mesh(dict(seq=4, tensor=2))):
        for shape, axes, expected in [
            ((2, 12, 8), (None, "seq", "tensor"), (None, "seq", "tensor")),
            ((2, 1, 8), (None, "seq", "tensor"), (None, None, "tensor")),
            ((2, 12, 4), (None, None, ("tensor", "seq")), (None, None, "tensor")),
        ]:
            found = jax.jit(lambda x, axes=axes: constrain(x, *axes))(jax.numpy.ones(shape))
            mesh = found.sharding.mesh
            placed = jax.sharding.NamedSharding(mesh, P(*expected))
            assert found.sharding.is_equivalent_to(placed, 3), shape
