"""Hugging Face directories: bit-identical both ways, on any mesh; errors that say what to do."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lfjax.data.templates import export_text
from lfjax.data.tokenize import load_tokenizer
from lfjax.errors import UserError
from lfjax.models import hf
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import Decoder, abstract_params
from lfjax.models.hf import Weights, load_params, save_hf, stored_dtype
from lfjax.sharding import make_mesh, tree_shardings
from tests.models_of import load_model

PROMPT = "Once upon a time, there was a little girl named Lily."
PROMPT_IDS = [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426]
CONTINUATION = (
    " She loved to play outside in the park. One day, she saw a big, red ball. "
    "She wanted to play with it, but it was too high."
)
TEMPLATE = "{{ messages[0]['content'] }}"


def tensors_of(path) -> dict[str, np.ndarray]:
    """All tensors of all files of a directory."""
    return {k: x for file in sorted(Path(path).glob("*.safetensors")) for k, x in load(file)}


def load(file):
    with safe_open(file, framework="numpy") as f:
        return [(name, f.get_tensor(name)) for name in f.keys()]  # noqa: SIM118


def assert_identical(a: dict[str, np.ndarray], b: dict[str, np.ndarray]):
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert (x.dtype, x.shape) == (b[name].dtype, b[name].shape), name
        assert x.tobytes() == b[name].tobytes(), name


def export(source, target, tokenizer_of, **how):
    """Import a directory and export it again."""
    config, params = load_model(source)
    raw, tokenizer = read_hf_config(source), load_tokenizer(tokenizer_of)
    save_hf(target, params, config, raw, tokenizer, export_text(TEMPLATE, tokenizer), **how)
    return str(target)


@pytest.fixture(scope="module")
def exported(stories, tmp_path_factory):
    return export(stories, tmp_path_factory.mktemp("hf") / "model", stories, dtype="float32")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """An untied model in bfloat16, split over several files by transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=12, vocab_size=512)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=12)
    config = transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=False)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    path = tmp_path_factory.mktemp("sharded")
    model.save_pretrained(path, max_shard_size="100KB")
    assert len(list(path.glob("*.safetensors"))) > 2
    return str(path)


# --- round trips ------------------------------------------------------------------------------


def test_round_trip(stories, exported):
    assert_identical(tensors_of(stories), tensors_of(exported))
    assert [p.name for p in Path(exported).parent.iterdir()] == ["model"]  # no half-written one


def test_round_trip_of_files_with_index(sharded, stories, tmp_path, monkeypatch):
    assert stored_dtype(sharded) == "bfloat16"
    monkeypatch.setattr(hf, "SHARD_BYTES", 40_000)
    target = export(sharded, tmp_path / "out", stories, dtype="bfloat16")
    found = tensors_of(target)
    assert_identical(tensors_of(sharded), found)
    assert found["lm_head.weight"].dtype == ml_dtypes.bfloat16
    files = sorted(Path(target).glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        parts = load_file(file)
        assert len(parts) == 1 or sum(x.nbytes for x in parts.values()) <= 40_000
    index = json.loads((Path(target) / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in found.values())
    assert index["weight_map"] == {n: f.name for f in files for n in load_file(f)}
    assert_identical(dict(load_model_flat(sharded)), dict(load_model_flat(target)))


def test_layers_are_in_order(sharded):
    """`layers.10` comes after `layers.9`, not after `layers.1`."""
    stacked = load_model(sharded)[1]["layers"]["mlp"]["up"]["kernel"]
    theirs = tensors_of(sharded)
    for i in range(12):
        assert np.array_equal(stacked[i], theirs[f"model.layers.{i}.mlp.up_proj.weight"].T)


def load_model_flat(path):
    _, params = load_model(path)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(str(p), np.asarray(x)) for p, x in leaves]


def test_export_replaces_what_was_there(stories, exported, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "model-00001-of-00009.safetensors").write_text("of an older export")
    export(stories, target, stories, dtype="float32")
    assert sorted(p.name for p in target.iterdir()) == sorted(
        p.name for p in Path(exported).iterdir()
    )


def test_stored_dtype(stories, tmp_path):
    assert stored_dtype(stories) == "float32"
    assert stored_dtype(str(tmp_path)) == "float32"  # a configuration without weights


@pytest.mark.parametrize("shape", [dict(fsdp=8), dict(fsdp=2, tensor=4), dict(data=4, tensor=2)])
@pytest.mark.parametrize("source", ["stories", "sharded"])
def test_load_onto_a_mesh(source, shape, request):
    """Every device holds its part of the same numbers."""
    path = request.getfixturevalue(source)
    config, expected = load_model(path)
    abstract = abstract_params(config)
    shardings = tree_shardings(abstract, make_mesh(shape))
    params = load_params(path, config, abstract, shardings)
    for x, y, sharding in zip(*map(jax.tree.leaves, (params, expected, shardings)), strict=True):
        assert x.sharding == sharding and x.dtype == jnp.float32
        assert np.array_equal(x, y)
        for shard in x.addressable_shards:
            assert np.array_equal(shard.data, y[shard.index])


# --- transformers and text --------------------------------------------------------------------


@pytest.mark.parametrize("source", ["stories", "sharded"])
def test_transformers_loads_the_export(source, stories, request, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = request.getfixturevalue(source)
    dtype = stored_dtype(path)
    target = export(path, tmp_path / "out", stories, dtype=dtype)
    tokens = torch.tensor([PROMPT_IDS])

    def logits(folder):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True
        )
        assert not any(info.values())
        assert model.dtype == getattr(torch, dtype)
        with torch.no_grad():
            return model(tokens).logits.float().numpy()

    assert np.array_equal(logits(path), logits(target))
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    assert tokenizer(PROMPT).input_ids == PROMPT_IDS
    turn = [{"role": "user", "content": PROMPT}]
    assert tokenizer.apply_chat_template(turn)["input_ids"] == PROMPT_IDS  # one BOS


def test_greedy_continuation(exported):
    """The story that the model is known to tell, from the exported directory."""
    config, params = load_model(exported)
    tokenizer = load_tokenizer(exported)
    ids = [tokenizer.bos, *tokenizer.encode(PROMPT)]
    assert ids == PROMPT_IDS
    model = Decoder(config)

    @jax.jit
    def likeliest(tokens, n):
        hidden, head = model.apply({"params": params}, tokens, positions, jnp.ones_like(tokens))
        return (hidden[0, n - 1] @ head.T).argmax()

    positions = jnp.arange(128)[None]
    while len(ids) < 128 and len(tokenizer.decode(ids)) < len(PROMPT + CONTINUATION):
        padded = jnp.asarray([ids + [0] * (128 - len(ids))])
        ids.append(int(likeliest(padded, len(ids))))
    assert tokenizer.decode(ids) == PROMPT + CONTINUATION


# --- errors -----------------------------------------------------------------------------------


@pytest.fixture
def broken(stories, tmp_path):
    """A copy of the model that a test may damage."""
    path = tmp_path / "model"
    shutil.copytree(stories, path, copy_function=shutil.copyfile)
    path.chmod(0o755)
    return path


def edit(path, change):
    """Change the tensors of a directory."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def reconfigure(path, **changed):
    raw = json.loads((path / "config.json").read_text()) | changed
    (path / "config.json").write_text(
        json.dumps({k: v for k, v in raw.items() if v is not None}), encoding="utf-8"
    )


UP = "model.layers.2.mlp.up_proj.weight"


def missing(path):
    edit(path, lambda tensors: tensors.pop(UP))
    return rf"has no weight {UP}\. Does its config.json describe this model"


def surplus(path):
    edit(path, lambda tensors: tensors.update({"model.layers.2.odd": np.zeros(3, np.float32)}))
    return r"has surplus weights model\.layers\.2\.odd\. Does its config.json"


def more_layers_than_configured(path):
    reconfigure(path, num_hidden_layers=3)
    return r"has surplus weights model\.layers\.3\.input_layernorm\.weight, .* and 13 more"


def fewer_layers_than_configured(path):
    reconfigure(path, num_hidden_layers=6)
    return r"has no weight model\.layers\.5\.input_layernorm\.weight"


def untied_without_head(path):
    reconfigure(path, tie_word_embeddings=False)
    return r"has no weight lm_head\.weight"


def one_wrong_shape(path):
    edit(path, lambda tensors: tensors.update({UP: np.zeros((172, 60), np.float32)}))
    return rf"weight '{UP}' is \(172, 60\), but config.json says \(172, 64\)"


def other_sizes(path):
    reconfigure(path, vocab_size=500)
    return r"embed_tokens\.weight' is \(512, 64\), but config.json says \(500, 64\)"


def no_safetensors(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    return r"no model\.safetensors\..*convert \.bin checkpoints .*save_pretrained"


def truncated(path):
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:-1000])
    return r"model\.safetensors: not a safetensors file"


def truncated_header(path):
    (path / "model.safetensors").write_bytes(b"\x10")
    return r"model\.safetensors: not a safetensors file"


def absent_part(path):
    index = {"weight_map": {UP: "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return r"no model-00001-of-00002\.safetensors"


def index_cut_short(path):
    (path / "model.safetensors.index.json").write_text('{"weight_map": {')
    return r"model\.safetensors\.index\.json: not an index of weights"


def index_without_map(path):
    (path / "model.safetensors.index.json").write_text("{}")
    return r"model\.safetensors\.index\.json: not an index of weights"


@pytest.mark.parametrize(
    "damage",
    [
        missing,
        surplus,
        more_layers_than_configured,
        fewer_layers_than_configured,
        untied_without_head,
        one_wrong_shape,
        other_sizes,
        no_safetensors,
        truncated,
        truncated_header,
        absent_part,
        index_cut_short,
        index_without_map,
    ],
)
def test_damaged_weights(damage, broken):
    message = damage(broken)
    with pytest.raises(UserError, match=message) as error:
        load_model(str(broken))
    assert str(broken) in str(error.value)


def test_ignored_tensors(broken, stories):
    """A copy of the tied embedding and the buffers of old files are no surplus."""
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}
    extra["lm_head.weight"] = load_file(broken / "model.safetensors")["model.embed_tokens.weight"]
    edit(broken, lambda tensors: tensors.update(extra))
    assert_identical(dict(load_model_flat(str(broken))), dict(load_model_flat(stories)))


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(model_type="bert"), "model_type is 'bert', which is not supported. Known: llama"),
        (dict(model_type=None), "model_type is 'None', which is not supported"),
        (dict(hidden_act="gelu"), "hidden_act='gelu' is not supported for llama"),
        (dict(attention_bias=True), "attention_bias=True is not supported"),
        (dict(mlp_bias=True), "mlp_bias=True is not supported"),
        (dict(quantization_config={"bits": 4}), "quantization_config=.* is not supported"),
        (dict(rope_scaling={"type": "dynamic", "factor": 2}), "RoPE scaling 'dynamic'"),
        (dict(rope_parameters={"rope_type": "yarn"}), "RoPE scaling 'yarn'"),
        (dict(intermediate_size=None), "field 'intermediate_size' is missing; .* llama config"),
        (dict(num_attention_heads=None), "field 'num_attention_heads' is missing"),
    ],
)
def test_config_errors(changed, message, broken):
    reconfigure(broken, **changed)
    with pytest.raises(UserError, match=message) as error:
        ModelConfig.from_hf(read_hf_config(str(broken)), str(broken))
    assert str(broken) in str(error.value)


def test_config_defaults():
    """What older and newer files leave out or name otherwise."""
    sizes = dict(vocab_size=10, hidden_size=24, num_hidden_layers=1, intermediate_size=8)
    rest = dict(num_attention_heads=6, rms_norm_eps=1e-6, max_position_embeddings=9)
    read = partial(ModelConfig.from_hf, where="here")
    raw = {"model_type": "llama", **sizes, **rest}
    config = read(raw)
    assert (config.n_kv_heads, config.head_dim, config.tied) == (6, 4, False)
    assert config.rope_theta == 10_000
    assert read(raw | dict(rope_theta=5e5, rope_scaling=None)).rope_theta == 5e5
    assert read(raw | dict(rope_parameters=dict(rope_theta=7))).rope_theta == 7
    assert read(raw | dict(head_dim=None, num_key_value_heads=None)) == config


def test_unreadable_config(tmp_path):
    with pytest.raises(UserError, match=r"no such model directory\. Set model\.path"):
        read_hf_config(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"no config\.json"):
        read_hf_config(str(tmp_path))
    (tmp_path / "config.json").write_text('{\n"model_type": llama}')
    with pytest.raises(UserError, match=r"config\.json: not JSON .* line 2"):
        read_hf_config(str(tmp_path))


def test_weights_are_read_by_slices(stories):
    """Opening reads no tensor; a slice is what numpy would cut."""
    weights = Weights(stories)
    whole = load_file(Path(stories) / "model.safetensors")[UP]
    assert np.array_equal(weights.slice(UP)[3:7, 10:20], whole[3:7, 10:20])
