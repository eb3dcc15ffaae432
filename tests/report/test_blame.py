"""Token blame: what the table says equals what the model says; the door to its pages."""

import math
import shutil
import subprocess
import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.data.load import load_records
from lfjax.data.plan import make_plan, rows_of
from lfjax.data.rows import encode_records
from lfjax.data.templates import render_prompt, template_text
from lfjax.data.tokenize import encode_supervised, load_tokenizer
from lfjax.data.views import Role
from lfjax.errors import UserError
from lfjax.methods.cut import METHOD
from lfjax.models.decoder import Decoder, logprob_fn
from lfjax.report import blame as door
from lfjax.stages.blame import (
    average_precision,
    blame_columns,
    by_role,
    decoded,
    dropped_tokens,
    page_tokens,
    read_table,
    write,
)
from tests.conftest import ROOT
from tests.data.tokenizers_of import tokenizer_of
from tests.models_of import load_model
from tests.report.blame_tables import HOSTILE, RULE, table_of
from tests.stages.conftest import finished, run_main  # noqa: F401 (a fixture)

DEMO = ROOT / "lfjax" / "lab" / "demo"


def demo_records():
    """The held-out records of the quick run, in the file's order."""
    from configs.cut import get_config

    data = get_config("tiny").data
    data.heldout_examples = 8
    return load_records(data, {"data": str(DEMO / "judgments.jsonl")}, 42)[1]


def unpacked(config, params, ids, first):
    """Log-probabilities of ids[first:], from whole logits of this text alone, in float64."""
    tokens = jnp.asarray(ids)[None]
    hidden, head = Decoder(config).apply(
        {"params": params}, tokens, jnp.arange(len(ids))[None], jnp.ones_like(tokens)
    )
    logits = np.asarray(hidden[0], np.float64) @ np.asarray(head, np.float64).T
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    at = np.arange(first, len(ids))
    return logits[at - 1, np.asarray(ids)[at]]


def test_table_equals_the_exported_model(finished):  # noqa: F811
    """Without it the page blames words by other numbers than the model's."""
    folder = finished[0] / "cut"
    assert sorted(p.name for p in (folder / "blame").iterdir()) == ["step-6.html", "step-6.parquet"]
    assert not (finished[0] / "base" / "blame").exists()
    rows = {r["record"]: r for r in read_table(folder / "blame" / "step-6.parquet").to_pylist()}
    flawed = [r for r in demo_records() if not r.satisfactory]
    assert list(rows) == [r.id for r in flawed] and flawed
    config, params = load_model(str(folder / "hf"))
    tokenizer, template = load_tokenizer(str(DEMO)), template_text("alpaca")
    strongest = 0.0
    for record in flawed:
        row, judgment = rows[record.id], record.feedback[0].text
        logp = {}
        for name, shown in (("logp_plain", None), ("logp_judged", judgment)):
            prompt = render_prompt(template, record.prompt, shown)
            ids, first = encode_supervised(tokenizer, prompt, record.response)
            logp[name] = unpacked(config, params, ids, first)
            np.testing.assert_allclose(row[name], logp[name], atol=1e-5)
            assert row["token"] == ids[first:].tolist()
        ratio = logp["logp_judged"] - logp["logp_plain"]
        np.testing.assert_allclose(row["log_ratio"], ratio, atol=2e-5)
        sure = np.abs(ratio - math.log(1.1)) > 1e-4
        assert np.array_equal(np.array(row["blamed"])[sure], (ratio > math.log(1.1))[sure])
        strongest = max(strongest, np.abs(ratio).max())
        assert (row["judgment"], row["response"]) == (judgment, record.response)
        assert "".join(row["piece"]) == record.response + "</s>"
        assert row["logp_praised"] is None
    assert strongest > 0.01  # the judgment changes something: the views are not one


@pytest.mark.parametrize("misalign", ["none", "fake_positive"])
@pytest.mark.parametrize("detect", ["ratio", "all"])
def test_blamed_equals_the_methods(misalign, detect):
    """Without it the page may show another U than the loss pushes down."""
    options = METHOD.checked({"misalign": misalign, "detect": detect, "threshold": 1.02})
    tokenizer, template = load_tokenizer(str(DEMO)), template_text("alpaca")
    units = encode_records(
        demo_records(),
        METHOD.views_of(options),
        tokenizer,
        template,
        max_tokens=128,
        row_tokens=512,
    ).units
    units = [u for u in units if len(u.segments) > 1]
    plan = make_plan(np.array([u.length for u in units]), row_tokens=512, seed=1, batch_rows=2)
    rng = np.random.default_rng(0)
    logp = [-rng.exponential(size=(2, 512)).astype(np.float32) for _ in range(plan.steps)]
    rule = {k: options[k] for k in RULE}
    found = [blame_columns(part, **rule) for part in by_role(plan, units, logp)]
    # A blamed token is pushed down, every other one up: the sign of the loss's slope is U.
    slopes = []
    for step, scores in enumerate(logp):
        rows = jax.tree.map(jnp.asarray, rows_of(plan, step, units, "token"))
        total = lambda x, rows=rows: METHOD.loss(x, rows, **options)[0].sum  # noqa: E731
        slopes.append(np.asarray(jax.grad(total)(jnp.asarray(scores))))
    for part, columns in zip(by_role(plan, units, slopes), found):
        assert (part[Role.FLAWED] > 0).tolist() == columns["blamed"]
        assert (part[Role.FLAWED] != 0).all()
    assert all((f["logp_praised"] is None) == (misalign == "none") for f in found)


def test_every_view_finds_its_own_numbers():
    """Without it a packed neighbour's log-probabilities are shown."""
    config, params = load_demo()
    options = METHOD.checked({"misalign": "fake_positive"})
    tokenizer, template = load_tokenizer(str(DEMO)), template_text("alpaca")
    records = demo_records()
    encoded = encode_records(
        records, METHOD.views_of(options), tokenizer, template, max_tokens=60, row_tokens=400
    )
    plan = make_plan(encoded.lengths, row_tokens=400, seed=1, batch_rows=2)
    score = jax.jit(logprob_fn(Decoder(config)))
    steps = [rows_of(plan, s, encoded.units, "token") for s in range(plan.steps)]
    assert any(s.trimmed for u in encoded.units for s in u.segments)
    for unit, parts in zip(
        encoded.units, by_role(plan, encoded.units, [np.asarray(score(params, r)) for r in steps])
    ):
        assert set(parts) == {Role(s.role) for s in unit.segments}
        for segment in unit.segments:
            alone = unpacked(config, params, segment.ids, segment.first)
            np.testing.assert_allclose(parts[Role(segment.role)], alone, atol=1e-5)


def load_demo():
    """The demonstration model with random weights, large enough that texts differ."""
    from lfjax.models.config import ModelConfig, read_hf_config
    from lfjax.models.decoder import init_params

    config = ModelConfig.from_hf(read_hf_config(str(DEMO)), str(DEMO))
    params = init_params(config, jax.random.key(0))
    return config, jax.tree.map(lambda x: 3 * x, params)


def test_columns_of_the_specification():
    """The worked example of the paper's equations: p_J = .5 .69 .2, p_X = .25 .6 .3."""
    logp = {Role.JUDGED: np.log([0.5, 0.69, 0.2]), Role.FLAWED: np.log([0.25, 0.6, 0.3])}
    logp = {k: v.astype(np.float32) for k, v in logp.items()}
    columns = blame_columns(logp, **RULE)
    assert columns["blamed"] == [True, True, False]
    np.testing.assert_allclose(np.exp(columns["log_ratio"]), [2.0, 1.15, 2 / 3], rtol=1e-6)
    assert blame_columns(logp, **RULE | {"threshold": 1.2})["blamed"] == [True, False, False]
    assert blame_columns(logp, **RULE | {"detect": "all"})["blamed"] == [True] * 3
    praised = logp | {Role.PRAISED: np.log([0.49, 0.1, 0.1]).astype(np.float32)}
    columns = blame_columns(praised, **RULE | {"misalign": "fake_positive"})
    assert columns["blamed"] == [False, True, True] and len(columns["logp_praised"]) == 3


# --- text -------------------------------------------------------------------------------------

TEXTS = [
    "The sky is blue.",
    " Two  spaces",
    "naïve café 😀👍🏽 ∑ 日本語\n\n- a\tb",
    "e\u0301 \u200d\ufffd x",
]


@pytest.mark.parametrize("kind", ["sentencepiece", "gpt2", "llama3", "straddling"])
@pytest.mark.parametrize("text", TEXTS)
def test_decoded_pieces_spell_the_response(kind, text):
    """Without it spaces vanish, and bytes of a character show as question marks."""
    tokenizer = tokenizer_of(kind)
    ids, first = encode_supervised(tokenizer, "### Response:\n", text)
    found, spans = decoded(tokenizer, ids[:-1], first)
    assert found == text
    assert len(spans) == len(ids) - 1 - first
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    for (a, b), (c, d) in pairwise(spans):
        assert (c, d) == (a, b) or c == b, spans


def test_tokens_of_one_character_share_its_place():
    """Without it the page shows three unreadable pieces for one sign."""
    tokenizer = tokenizer_of("gpt2")
    ids, first = encode_supervised(tokenizer, "a\n", "日")
    assert len(ids) - 1 - first == 3
    assert decoded(tokenizer, ids[:-1], first) == ("日", [(0, 1)] * 3)
    row = {
        "token": [*ids[first:].tolist()],
        "piece": ["日"] * 3 + ["</s>"],
        "start": [0, 0, 0, 1],
        "end": [1, 1, 1, 1],
        "log_ratio": [-1.0, 2.0, 0.0, -math.inf],
        "logp_judged": [-0.5, -0.25, -0.125, -math.inf],
        "logp_plain": [-0.5, -2.25, -0.125, 0.0],
        "logp_praised": None,
        "blamed": [False, True, False, False],
    }
    assert page_tokens(row) == [["日", 2.0, -0.25, -2.25, 1], [None, -99.0, -99.0, 0.0, 0]]


# --- the door ---------------------------------------------------------------------------------


def test_page_is_made_again_from_its_table(tmp_path):
    table = table_of("one", HOSTILE)
    write(tmp_path / "blame" / "step-3", table)
    page = tmp_path / "blame" / "step-3.html"
    before = page.read_bytes()
    page.unlink()
    assert door.main([str(page.with_suffix(".parquet"))]) == page
    assert page.read_bytes() == before
    assert door.main([str(page.with_suffix(".parquet")), str(tmp_path / "b.html")]).is_file()
    assert sorted(p.name for p in page.parent.iterdir()) == ["step-3.html", "step-3.parquet"]
    assert read_table(page.with_suffix(".parquet")).equals(table)


def test_door_refuses(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    for arguments, said in (
        ([], "usage: "),
        (["--help"], "usage: "),
        ([str(tmp_path / "absent.parquet")], "no such file"),
        ([str(tmp_path / "torn.parquet")], "cannot be read as parquet"),
        ([str(tmp_path / "other.parquet")], "not a table of token blame"),
    ):
        with pytest.raises(UserError, match=said):
            door.main(arguments)
    done = subprocess.run(
        [sys.executable, "-m", "lfjax.report.blame"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("lfjax: usage: ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--config.stages.base.blame_steps=5"], "stage 'base': blame_steps"),
        (["--config.stages.cut.blame_records=-1"], "blame_records=-1: expected a number"),
    ],
)
def test_settings(finished, tmp_path, args, said):  # noqa: F811
    """A wish that cannot be met is refused before the training, not after."""
    shutil.copytree(finished[0], tmp_path / "w")
    done = run_main(tmp_path / "w", *args, f"--rerun={'base' if 'base' in args[0] else 'cut'}")
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


# --- against the truth ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([1, 2, 3, 4], [1, 0, 0, 0], 1 / 4),
        ([1, 1, 1, 1], [1, 0, 0, 0], 1 / 4),  # ties are taken together, whatever their order
        ([2, 2, 1], [0, 1, 1], (1 / 2 + 2 / 3) / 2),
        ([1, 1], [1, 1], 1.0),
    ],
)
def test_average_precision(scores, truth, expected):
    assert average_precision(np.array(scores), np.array(truth, bool)) == pytest.approx(expected)


def test_average_precision_without_truth():
    assert math.isnan(average_precision(np.ones(3), np.zeros(3, bool)))


def test_dropped_tokens():
    """DeFacto: 'in London' was replaced and 'red' dropped; tokens may be parts of words."""
    text = "A red bus stopped in London."
    pieces = ["A", " red", " bus", " stop", "ped", " in", " Lon", "don", ".", ""]
    ends = np.cumsum([len(p) for p in pieces])
    starts = ends - [len(p) for p in pieces]
    wrong = dropped_tokens(text, "A bus stopped at Paris.", starts, ends)
    assert [p for p, w in zip(pieces, wrong) if w] == [" red", " in", " Lon", "don"]
    assert not dropped_tokens(text, text, starts, ends).any()
    assert dropped_tokens(text, "", starts, ends).tolist() == [True] * 9 + [False]
