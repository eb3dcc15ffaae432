"""Generation against transformers and the trainer; who else is there changes nothing."""

import re
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.data.tokenize import load_tokenizer
from lfjax.errors import UserError
from lfjax.generation import engine as engines
from lfjax.generation.engine import make_engine
from lfjax.generation.rules import GREEDY, Sampling
from lfjax.generation.scheduler import Request, generate, samples
from lfjax.models.decoder import Decoder, logprob_fn
from tests.losses.meshes import mesh_of
from tests.models.small import laid, lively_params, small
from tests.models.test_families import build
from tests.models_of import load_model

ONE = (1, 1, 1)


def answers(engine, placed, requests, tokenizer=None):
    found = dict(generate(engine, placed, requests, tokenizer))
    assert sorted(found) == list(range(len(requests)))
    return [found[i] for i in range(len(requests))]


def ragged(vocab: int, count: int = 50, longest: int = 60) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, vocab, n).tolist() for n in rng.integers(1, longest, count)]


# --- transformers -----------------------------------------------------------------------------


def assert_greedy(model, prompt: list[int], ids: list[int]) -> None:
    """Each token has transformers' largest logit, given those before it; up to exact ties."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].numpy()
    chosen = logits[np.arange(len(ids)), ids]
    np.testing.assert_allclose(chosen, logits.max(axis=1), rtol=0, atol=1e-5)


FAMILIES = ("llama llama3", "mistral", "qwen2 tied, windows", "qwen3 tied, windows")
FAMILIES += ("gemma", "gemma2", "gemma3 untied, cap")


@pytest.mark.parametrize("variant", FAMILIES)
def test_greedy_equals_transformers(variant, tmp_path):
    model = build(variant, tmp_path)
    config, params = load_model(str(tmp_path))
    engine = make_engine(config, mesh_of(ONE), slots=8, max_tokens=128)
    placed = engine.place(params)
    prompts = ragged(93)
    lengths = np.random.default_rng(1).integers(1, 40, len(prompts)).tolist()
    requests = [Request(ids, n, GREEDY) for ids, n in zip(prompts, lengths)]
    found = answers(engine, placed, requests)
    assert [len(c.ids) for c in found] == lengths
    for prompt, completion in zip(prompts, found):
        assert_greedy(model, prompt, completion.ids)
    backwards = answers(engine, placed, requests[::-1])[::-1]
    assert backwards == found


@pytest.fixture
def one_thread():
    """Threads of torch wait for each other longer than so small a model takes."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_stories_equal_transformers(stories, one_thread):
    """`transformers.generate` itself, prompt by prompt, its end of text included."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32)
    config, params = load_model(stories)
    tokenizer = load_tokenizer(stories)
    engine = make_engine(config, mesh_of(ONE), slots=16, max_tokens=256)
    texts = ("Once upon a time", "Lily", "The dog was", "One day, a", "Tom and Sue", "In the park")
    prompts = [[1, *tokenizer.encode(a + ", " + b)] for a in texts for b in texts] + ragged(512, 14)
    requests = [Request(ids, 60, GREEDY, stop_ids=(2,)) for ids in prompts]
    found = answers(engine, engine.place(params), requests, tokenizer)
    how = dict(max_new_tokens=60, do_sample=False, pad_token_id=0)
    for prompt, completion in zip(prompts, found):
        with torch.no_grad():
            whole = model.generate(torch.tensor([prompt]), **how)
        assert completion.ids == whole[0, len(prompt) :].tolist()
        assert completion.text == tokenizer.decode(completion.ids)


# --- the trainer ------------------------------------------------------------------------------

EVERYTHING = small(
    n_kv_heads=4,
    qkv_bias=True,
    qk_norm=True,
    norm_plus_one=True,
    post_norms=True,
    scale_embedding=True,
    activation="gelu_tanh",
    windows=(70, 0),  # more than one block of the cache, and less than the longest answers
    local_rope_theta=100.0,
    query_scalar=3.0,
    attn_softcap=4.0,
    final_softcap=6.0,
)
MIXED = (
    GREEDY,
    Sampling(),
    Sampling(temperature=0.8),
    Sampling(top_k=9),
    Sampling(top_p=0.9, temperature=1.3),
    Sampling(min_p=0.05),
    Sampling(repetition_penalty=1.3),
)


def mixed_requests(count: int, vocab: int = 96) -> list[Request]:
    """Prompts, rules, limits and seeds of all kinds."""
    prompts = ragged(vocab, count, 90)
    lengths = np.random.default_rng(2).integers(1, 160, count).tolist()
    return [
        Request(ids, n, MIXED[i % len(MIXED)], seed=i)
        for i, (ids, n) in enumerate(zip(prompts, lengths))
    ]


@pytest.fixture(scope="module")
def everything():
    engine = make_engine(EVERYTHING, mesh_of(ONE), slots=8, max_tokens=256)
    return engine, engine.place(lively_params(EVERYTHING))


@cache
def forward(config, dtype):
    return jax.jit(logprob_fn(Decoder(config, dtype)))


def trainer_logps(config, params, request, completion, dtype="float32"):
    ids = np.array([*request.ids, *completion.ids], np.int32)
    rows = laid([np.pad(ids, (0, 256 - len(ids)))], [(0, 0)], 1, 256)
    logp = forward(config, dtype)(params, rows)[0]
    return np.asarray(logp)[len(request.ids) - 1 : len(ids) - 1]


def test_logps_are_the_trainers(everything):
    """Whatever the rules, they are those of the model's own distribution."""
    requests = mixed_requests(30)
    for request, completion in zip(requests, answers(*everything, requests)):
        exact = trainer_logps(EVERYTHING, lively_params(EVERYTHING), request, completion)
        assert np.abs(exact).max() > 0.1
        np.testing.assert_allclose(completion.logps, exact, rtol=0, atol=1e-4)


def test_bfloat16():
    """As close to the trainer in bfloat16 as that is to itself in float32."""
    params = lively_params(EVERYTHING)
    engine = make_engine(EVERYTHING, mesh_of(ONE), slots=8, max_tokens=256, dtype="bfloat16")
    placed = engine.place(params)
    assert placed["layer_1"]["mlp"]["up"]["kernel"].dtype == jnp.bfloat16
    assert placed["final_norm"]["scale"].dtype == jnp.float32
    requests = mixed_requests(12)
    apart, own = [], []
    for request, completion in zip(requests, answers(engine, placed, requests)):
        rounded = trainer_logps(EVERYTHING, params, request, completion, "bfloat16")
        exact = trainer_logps(EVERYTHING, params, request, completion)
        apart += [np.abs(np.array(completion.logps) - rounded).mean()]
        own += [np.abs(exact - rounded).mean()]
    assert 1e-3 < np.mean(apart) < 1.5 * np.mean(own)


# --- who else is there ------------------------------------------------------------------------


def test_neighbours_order_and_slot_change_nothing(everything):
    """Bit for bit: alone, in a crowd, in other slots, behind others."""
    requests = mixed_requests(40)
    crowd = answers(*everything, requests)
    order = np.random.default_rng(3).permutation(len(requests))
    shuffled = answers(*everything, [requests[i] for i in order])
    assert [shuffled[list(order).index(i)] for i in range(len(requests))] == crowd
    for i in range(0, len(requests), 3):
        assert answers(*everything, [requests[i]]) == [crowd[i]]
    few = answers(*everything, requests[5:8])
    assert few == crowd[5:8]


def test_seeds(everything):
    """Another seed is another answer, the same one the same; greedy needs none."""
    request = Request([5, 6, 7], 30, Sampling(), seed=3)
    found = answers(*everything, [*samples(request, 6), *samples(request, 3)])
    assert found[6:] == found[:3]
    assert len({tuple(c.ids) for c in found[:6]}) == 6
    assert len({r.seed for r in samples(request, 6) + samples(replace(request, seed=4), 6)}) == 12
    greedy = samples(replace(request, sampling=GREEDY), 3)
    assert len({tuple(c.ids) for c in answers(*everything, greedy)}) == 1


def test_draws_of_a_model(everything):
    """The first token of many seeds follows the model's distribution."""
    from scipy.stats import chisquare

    engine, placed = everything
    prompt, n = [5, 6, 7, 8], 2000
    requests = samples(Request(prompt, 1, Sampling(), seed=11), n)
    counts = np.zeros(EVERYTHING.vocab_size)
    for completion in answers(engine, placed, requests):
        counts[completion.ids[0]] += 1
    rows = [np.array([*prompt, v], np.int32) for v in range(EVERYTHING.vocab_size)]
    laid_rows = laid(rows, [(i, 0) for i in range(len(rows))], len(rows), 5)
    logp = forward(EVERYTHING, "float32")(lively_params(EVERYTHING), laid_rows)
    exact = np.exp(np.asarray(logp, np.float64)[:, 3])
    np.testing.assert_allclose(exact.sum(), 1, atol=1e-5)
    common = exact * n >= 5
    found = [*counts[common], counts[~common].sum()]
    expected = np.array([*exact[common], 1 - exact[common].sum()]) * n
    assert len(found) > 10 and chisquare(found, expected).pvalue > 0.01


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1)], ids=str)
def test_mesh_changes_nothing(shape, everything):
    requests = mixed_requests(20)
    expected = answers(*everything, requests)
    engine = make_engine(EVERYTHING, mesh_of(shape), slots=5, max_tokens=256)
    assert engine.slots == 8  # rounded up, so that the parts of the mesh have as many
    placed = engine.place(lively_params(EVERYTHING))
    for a, b in zip(answers(engine, placed, requests), expected):
        assert a.ids == b.ids and a.finish == b.finish
        np.testing.assert_allclose(a.logps, b.logps, rtol=0, atol=1e-4)


# --- compilation ------------------------------------------------------------------------------


def test_compiled_once_a_bucket(monkeypatch):
    traced = []

    def count(name, fn):
        def counted(*args):
            traced.append(name)
            return fn(*args)

        monkeypatch.setattr(engines, name, counted)

    for name in ("_prefill", "_insert", "_decode"):
        count(name, getattr(engines, name))
    config = small()
    engine = make_engine(
        config, mesh_of(ONE), slots=4, cache_buckets=(64, 256), prompt_buckets=(16, 128)
    )
    placed = engine.place(lively_params(config))
    short, long = list(range(5, 15)), list(range(5, 85))
    requests = [Request(ids, n) for ids in (short, long) for n in (3, 9, 30, 150)] * 3
    for _ in range(2):
        answers(engine, placed, requests)
    assert traced.count("_decode") == 2  # a cache bucket
    assert traced.count("_prefill") == 2  # a prompt bucket
    assert traced.count("_insert") == 3  # a pair of them: long prompts need the larger cache


# --- who stops listening ----------------------------------------------------------------------


def test_an_answer_is_given_up(everything):
    """Whoever stops listening leaves the engine ready for the next call."""
    requests = mixed_requests(12)
    expected = answers(*everything, requests)
    for _ in generate(*everything, requests):
        break
    assert answers(*everything, requests) == expected


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, message",
    [
        (Request([5] * 250, 7), "request 1: a prompt of 250 tokens and max_new_tokens=7 do not"),
        (Request([], 7), "request 1: 0 tokens of prompt and max_new_tokens=7; expected at least"),
        (Request([5], 0), "request 1: 1 tokens of prompt and max_new_tokens=0"),
        (Request([5], 1, seed=(3, -1)), r"request 1: seed=\(3, -1\); expected 0 or more"),
        (Request([5], 1, stop=("x",)), "request 1: stop strings need a tokenizer"),
        (Request([5] * 257, 1), "request 1: a prompt of 257 tokens .* do not fit the cache of 256"),
        (Request([5], 1, stop_ids=(9,) * 9), "request 1: 9 stop_ids; at most 8"),
        (Request([5, 96], 1), r"request 1: token id 96; the model has ids 0 to 95"),
    ],
    ids=["long", "empty", "nothing asked", "seed", "stop", "longer", "stop_ids", "id"],
)
def test_bad_requests(wrong, message, everything):
    with pytest.raises(UserError, match=message):
        next(generate(*everything, [Request([5], 1), wrong]))


def test_bad_engines():
    with pytest.raises(UserError, match=r"slots=0; expected at least 1"):
        make_engine(small(), mesh_of(ONE), slots=0)
    with pytest.raises(UserError, match=r"mesh.tensor=8 does not divide the model's 4 key"):
        make_engine(small(n_kv_heads=4), mesh_of((1, 1, 8)), slots=8)
    with pytest.raises(UserError, match=r"model.dtype: unknown 'float16'"):
        make_engine(small(), mesh_of(ONE), dtype="float16")


# --- placement --------------------------------------------------------------------------------


def test_no_weight_is_gathered():
    """Decoding moves activations between devices, never a weight or a cache."""
    config = small(vocab_size=512, d_model=64, d_mlp=256, n_heads=8, n_kv_heads=4, head_dim=16)
    mesh = mesh_of((2, 2, 2))
    engine = make_engine(config, mesh, slots=8, max_tokens=128)
    placed = engine.place(lively_params(config))
    told = engine.put((np.ones(8, bool), np.int32(1), np.int32(8)))
    text = engine.decode.lower(placed, engine.empty(128), *told).compile().as_text()
    sizes = [
        int(np.prod([int(n) for n in shape.split(",") if n]))
        for shape in re.findall(r"\w+\[([\d,]*)\][^=]* all-gather", text)
    ]
    assert "all-reduce" in text
    assert max(sizes, default=0) <= 8 * 512
