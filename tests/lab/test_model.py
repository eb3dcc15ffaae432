"""The model directory: texts come back as they were, judgments are shown where pretraining showed
them, and all that reads Hugging Face directories reads this one."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from transformers import PreTrainedTokenizerFast

from lfjax.data.records import Message
from lfjax.data.rows import encode_records
from lfjax.data.templates import encode_prompt, render_prompt, speaking, template_text
from lfjax.data.tokenize import load_tokenizer
from lfjax.data.views import critique, judged, plain, refine
from lfjax.lab.model import write_model
from lfjax.lab.oracle import Oracle
from lfjax.lab.phrasebook import Phrasebook
from lfjax.lab.world import KINDS
from lfjax.methods import get_method
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import abstract_params

BOOK = Phrasebook()
PRETRAINING = list(BOOK.pretraining(300))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("world")
    write_model(path, BOOK)
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def template(folder):
    return template_text("own", folder)


def with_response(kind="all", n=40):
    """Judged answers to feedback prompts, with the texts of pretraining's style."""
    out = []
    for record in BOOK.prompts("feedback", "train", n):
        words = [BOOK.words[t] for t in record.prompt[0].content.split()[1::2]]
        lines = [f"{(w.habit, w.right)[i % 3 == 0][0]} {w.second}" for i, w in enumerate(words)]
        out.append(
            Oracle(kind).judged(type(record)(**{**vars(record), "response": "\n".join(lines)}))
        )
    return out


def test_size(folder):
    config = ModelConfig.from_hf(read_hf_config(folder), folder)
    size = sum(x.size for x in jax.tree.leaves(abstract_params(config)))
    assert 108_000 < size < 124_000


def test_texts_come_back(tokenizer):
    for record in PRETRAINING:
        ids = tokenizer.encode(record.response)
        assert len(ids) == 16 and tokenizer.hf.unk_token_id not in ids
        assert tokenizer.decode(ids) == record.response


def test_unknown_words_do_not_break_lines(tokenizer):
    assert tokenizer.decode(tokenizer.encode("Yo zz\nHey open")) == "Yo\nHey open"
    assert tokenizer.hf.decode(tokenizer.encode("Yo zz")) == "Yo <unk>"


def test_one_bos_one_eos(tokenizer, template):
    ids = encode_prompt(tokenizer, template, PRETRAINING[0].prompt)
    assert ids.count(tokenizer.bos) == 1
    assert speaking(tokenizer, template) == tokenizer


def test_transformers_reads_it(folder, tokenizer, template):
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    turns = [{"role": "user", "content": PRETRAINING[0].prompt[0].content}]
    text = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == render_prompt(template, PRETRAINING[0].prompt)
    assert theirs(text)["input_ids"] == encode_prompt(tokenizer, template, PRETRAINING[0].prompt)


def test_judgments_look_as_in_pretraining(tokenizer, template):
    """A text of pretraining, as a prompt, is the template's prompt with its judgment."""
    prompt = (Message("user", "1 bako 2 timu 3 nevu"),)
    for judgment, shown in (
        ("wrong: 2 Yo", "judged:\n1 bako Yo timu 3 nevu"),
        ("lines: 3 Duly 1 Hey", "judged:\nHey bako 2 timu Duly nevu"),
        ("score: 2", "judged: score: 2\n1 bako 2 timu 3 nevu"),
        ("flawed", "judged: flawed\n1 bako 2 timu 3 nevu"),
        ("wrong: 7 Yo", "judged:\n1 bako 2 timu 3 nevu"),
    ):
        text = render_prompt(template, prompt, judgment)
        assert text.split() == [*shown.split(), "answer:"]
        as_text = render_prompt(template, (Message("user", shown),))
        ids = [tokenizer.encode_rendered(t) for t in (text, as_text)]
        assert ids[0] == ids[1]


@pytest.mark.parametrize(
    "judgment", ["", "wrong:", "wrong: 1", "wrong: bako", "3", "lines: 1 1 2", "wrong: 1 bako x"]
)
def test_any_judgment_can_be_shown(template, judgment):
    prompt = (Message("user", "1 bako 2 timu"),)
    text = render_prompt(template, prompt, judgment)
    assert "bako" in text and text.split()[-1] == "answer:"
    assert ("judged:" in text) == bool(judgment)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_cut_are_short(tokenizer, template, kind):
    cut = get_method("cut")
    views = cut.views_of(cut.checked({}))
    records = with_response(kind)
    encoded = encode_records(records, views, tokenizer, template, max_tokens=64, row_tokens=144)
    assert len(encoded.units) == len(records) and not encoded.counts["prompt trimmed"]
    for unit in encoded.units:
        flawed, with_judgment = unit.segments
        assert len(flawed.ids) == 35 and 36 <= len(with_judgment.ids) <= 38
        assert tokenizer.hf.unk_token_id not in with_judgment.ids
        assert len(with_judgment.ids) - with_judgment.first == 17


def test_every_view_can_be_shown(tokenizer, template):
    records = with_response()

    def views(record):
        shown = [view(record) for view in (plain, critique, refine)]
        return [*shown, judged(record, record.feedback[0].text)]

    encoded = encode_records(records, views, tokenizer, template, max_tokens=128, row_tokens=512)
    assert [len(u.segments) for u in encoded.units] == [4] * len(records)


def test_written_anew_it_is_the_same(folder, tmp_path):
    write_model(tmp_path, BOOK)
    for name in ("tokenizer.json", "config.json", "chat_template.jinja", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == Path(folder, name).read_bytes()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"


def test_the_package_stays_light():
    heavy = ("jax", "torch", "transformers", "tokenizers")
    code = f"import lfjax.lab, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
