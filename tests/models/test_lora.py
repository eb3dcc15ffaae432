"""Adapters: nothing at first, the same as merged weights, and the files of the peft library."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.errors import UserError
from lfjax.models.decoder import Decoder, init_lora, logprob_fn
from lfjax.models.lora import PROJECTIONS, LoraConfig, load_peft, merge, save_peft
from tests.models.small import lively_params, small
from tests.models_of import save_model

CONFIG = small(vocab_size=96)
EVERYWHERE = LoraConfig(rank=3, alpha=6.0, pattern=".")


@pytest.fixture(scope="module")
def params():
    return lively_params(CONFIG)


def lively_lora(lora, seed=0):
    """Adapters that do change something."""
    drawn = init_lora(CONFIG, lora, jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed + 1), 99))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), drawn)


def hidden_and_head(params, lora_config=None, lora=None, key=None):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 20)))
    positions = jnp.broadcast_to(jnp.arange(20), (2, 20))
    variables = {"params": params} | ({} if lora is None else {"lora": lora})
    rngs = None if key is None else {"dropout": key}
    model = Decoder(CONFIG, lora=lora_config)
    return model.apply(variables, tokens, positions, jnp.ones_like(tokens), rngs=rngs)


def logits(*args, **kwargs):
    hidden, head = hidden_and_head(*args, **kwargs)
    return np.asarray(hidden @ head.T)


def test_step_zero_is_the_base(params):
    """Exactly: B is zero."""
    fresh = init_lora(CONFIG, EVERYWHERE, jax.random.key(5))
    assert np.array_equal(logits(params, EVERYWHERE, fresh), logits(params))


def test_merged_equals_adapter_on(params):
    lora = lively_lora(EVERYWHERE)
    on = logits(params, EVERYWHERE, lora)
    assert np.abs(on - logits(params)).max() > 0.1
    np.testing.assert_allclose(logits(merge(params, lora, EVERYWHERE)), on, atol=1e-4)


@pytest.mark.parametrize(
    ("pattern", "targets"),
    [
        ("mlp/", ("mlp/gate", "mlp/up", "mlp/down")),
        ("attn/(q|v)$", ("attn/q", "attn/v")),
        (".", PROJECTIONS),
    ],
)
def test_patterns(pattern, targets):
    lora = LoraConfig(2, 2.0, pattern=pattern)
    assert lora.targets == targets
    tree = init_lora(CONFIG, lora, jax.random.key(0))["layers"]
    assert sorted(f"{room}/{name}" for room in tree for name in tree[room]) == sorted(targets)


def test_bad_settings():
    with pytest.raises(UserError, match="matches no projection"):
        LoraConfig(2, 2.0, pattern="feed_forward")
    with pytest.raises(UserError, match="positive rank"):
        LoraConfig(0, 2.0)
    with pytest.raises(UserError, match="dropout in"):
        LoraConfig(2, 2.0, dropout=1.0)


def test_dropout_needs_a_key(params):
    """Training drops adapter inputs, by its key alone; evaluation does not."""
    dropping = LoraConfig(3, 6.0, dropout=0.5, pattern=".")
    lora = lively_lora(dropping)
    plain = logits(params, EVERYWHERE, lora)
    assert np.array_equal(logits(params, dropping, lora), plain)
    once = logits(params, dropping, lora, jax.random.key(1))
    assert not np.allclose(once, plain, atol=1e-2)
    assert np.array_equal(once, logits(params, dropping, lora, jax.random.key(1)))
    assert not np.array_equal(once, logits(params, dropping, lora, jax.random.key(2)))


def test_only_adapters_get_gradients(params):
    """The gradient of the adapters is that of finite differences of the merged model."""
    lora = lively_lora(EVERYWHERE)
    logprobs = logprob_fn(Decoder(CONFIG, lora=EVERYWHERE), chunk=16)
    merged = logprob_fn(Decoder(CONFIG), chunk=16)

    class rows:
        tokens = jnp.asarray(np.random.default_rng(1).integers(0, CONFIG.vocab_size, (1, 12)))
        positions = jnp.arange(12)[None]
        segment = jnp.ones((1, 12), jnp.int32)
        targets = jnp.roll(tokens, -1, 1)

    found = jax.grad(lambda x: logprobs(params, rows, x).sum())(lora)
    expected = jax.grad(lambda x: merged(merge(params, x, EVERYWHERE), rows).sum())(lora)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)


def test_peft_loads_ours_and_we_load_theirs(params, tmp_path):
    """The same logits in both directions, within 1e-4."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    save_model(tmp_path / "base", CONFIG, params)
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 20))

    def theirs(folder):
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        with torch.no_grad():
            return peft.PeftModel.from_pretrained(base, folder)(torch.tensor(tokens)).logits.numpy()

    lora = lively_lora(EVERYWHERE)
    save_peft(tmp_path / "ours", lora, EVERYWHERE, str(tmp_path / "base"))
    on = logits(params, EVERYWHERE, lora)
    np.testing.assert_allclose(theirs(tmp_path / "ours"), on, atol=1e-4)

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    modules = ["q_proj", "down_proj"]
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=5, target_modules=modules))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(tmp_path / "theirs")
    loaded, config = load_peft(tmp_path / "theirs", CONFIG)
    assert config.targets == ("attn/q", "mlp/down") and config.scale == 2.5
    ours = logits(params, config, jax.tree.map(jnp.asarray, loaded))
    assert np.abs(ours - logits(params)).max() > 0.1
    np.testing.assert_allclose(ours, theirs(tmp_path / "theirs"), atol=1e-4)


def test_peft_files_that_are_not_ours(tmp_path, params):
    with pytest.raises(UserError, match="no adapter_config"):
        load_peft(tmp_path, CONFIG)
    save_peft(tmp_path, lively_lora(EVERYWHERE), EVERYWHERE, "base")
    raw = json.loads((tmp_path / "adapter_config.json").read_text())

    def with_config(**changed):
        (tmp_path / "adapter_config.json").write_text(json.dumps(raw | changed))
        with pytest.raises(UserError) as error:
            load_peft(tmp_path, CONFIG)
        return str(error.value)

    assert "use_dora=True is not supported" in with_config(use_dora=True)
    assert "rank_pattern" in with_config(rank_pattern={"q_proj": 8})
    assert "target_modules" in with_config(target_modules=["c_attn"])
    assert "surplus tensors" in with_config(target_modules=["q_proj"])
