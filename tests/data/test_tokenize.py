"""Tokens: one BOS, one EOS, a prompt as at inference, and a response that is all of the target."""

import json

import pytest

from lfjax.data.tokenize import encode_supervised, load_tokenizer, tokenizer_files, wrap
from lfjax.errors import UserError
from tests.data.tokenizers_of import KINDS, byte_level, tokenizer_of, unigram

PROMPT = "You are given.\n\n### Instruction:\nName a colour.\n\n### Response:\n"
RESPONSES = [
    "The answer is blue.",
    "\nThe end.",
    "\n\n",
    "- red\n- green\n\n\n",
    " x",
    "  two  spaces ",
    "1. one\n2. two",
    "日本 🌱 e\u0301",
    "\u0301 begins with a combining mark",
    "</s> <s> <unk> <|begin|> <|end|>",
]
STRADDLING = {
    ("gpt2", "\n\n"),
    ("llama3", "\nThe end."),
    ("llama3", "\n\n"),
    ("straddling", "The answer is blue."),
    ("straddling", "\nThe end."),
    ("straddling", "- red\n- green\n\n\n"),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_response = pytest.mark.parametrize("response", RESPONSES)


@each_kind
@each_response
def test_prompt_response_and_ends(kind, response):
    """Without it BOS or EOS come twice or never, the model is asked in other tokens than it
    learned from, or the target is not the response."""
    tokenizer = tokenizer_of(kind)
    ids, first = encode_supervised(tokenizer, PROMPT, response)
    ids = ids.tolist()
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    assert ids[:first] == start + tokenizer.encode(PROMPT)
    assert ids.count(tokenizer.eos) == 1 and ids[-1] == tokenizer.eos
    assert ids.count(tokenizer.bos) == len(start) == (kind in ("sentencepiece", "llama3"))
    assert tokenizer.decode(ids[:first]) == PROMPT
    assert tokenizer.decode(ids) == PROMPT + response
    if kind != "sentencepiece" or not response.startswith(" "):  # its decoder strips that space
        assert tokenizer.decode(ids[first:]) == response


@each_kind
@each_response
def test_text_is_cut_only_where_a_token_straddles_the_border(kind, response):
    """Without it every response begins with other tokens than the text has."""
    tokenizer = tokenizer_of(kind)
    head, whole = tokenizer.encode(PROMPT), tokenizer.encode(PROMPT + response)
    straddles = whole[: len(head)] != head
    assert straddles or (kind, response) not in STRADDLING  # else the case below is never met
    ids, first = encode_supervised(tokenizer, PROMPT, response)
    start = ids.tolist()[: first - len(head)]
    expected = head + tokenizer.continuation(response) if straddles else whole
    assert ids.tolist() == [*start, *expected, tokenizer.eos]
    cut, _ = encode_supervised(tokenizer, PROMPT, response, split=True)
    assert cut.tolist() == [*start, *head, *tokenizer.continuation(response), tokenizer.eos]


def test_text_is_not_cut_where_no_token_straddles_the_border():
    """Without it a response is divided otherwise than its text is."""
    tokenizer = tokenizer_of("llama3")
    whole, cut = (
        encode_supervised(tokenizer, "1", "2345", split=split)[0].tolist()[1:-1]
        for split in (False, True)
    )
    assert whole == tokenizer.encode("12345")  # 1|23|45: digits are grouped by three
    assert cut == tokenizer.encode("1") + tokenizer.encode("2345") != whole  # 1|23|4|5


@each_kind
@each_response
def test_continuation_has_no_prefix_space(kind, response):
    """Without it a response that was cut off at the border begins with a space of its own."""
    tokenizer = tokenizer_of(kind)
    joined = tokenizer.encode("a word:") + tokenizer.continuation(response)
    assert tokenizer.decode(joined) == "a word:" + response


def test_prompt_and_response_encoded_apart_are_another_text():
    """The reason for all of this: such a tokenizer puts a space in front of what it encodes."""
    tokenizer = tokenizer_of("sentencepiece")
    apart = tokenizer.encode(PROMPT) + tokenizer.encode("The end.")
    assert tokenizer.decode(apart) != PROMPT + "The end."
    assert apart != encode_supervised(tokenizer, PROMPT, "The end.")[0].tolist()[1:-1]


@each_kind
def test_names_of_special_tokens_are_plain_text(kind):
    """Without it a text that mentions `</s>` ends the response for the model."""
    tokenizer = tokenizer_of(kind)
    for name in tokenizer.hf.all_special_tokens:
        ids = tokenizer.encode(f"a {name} b")
        assert not set(ids) & set(tokenizer.hf.all_special_ids)
        assert tokenizer.decode(ids) == f"a {name} b"


def test_padding_that_is_eos_is_not_taken_for_it():
    """Without it EOS is masked as padding, and the model never learns to stop."""
    tokenizer = tokenizer_of("straddling")
    assert tokenizer.hf.pad_token_id == tokenizer.eos
    ids, first = encode_supervised(tokenizer, PROMPT, "blue")
    assert ids[-1] == tokenizer.eos and len(ids) - 1 >= first


@each_kind
def test_saved_tokenizer_is_the_same(kind, tmp_path):
    """Without it limits that somebody left in tokenizer.json cut or pad every text in silence."""
    tokenizer = tokenizer_of(kind)
    tokenizer.hf.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    saved["truncation"] = dict(max_length=4, strategy="LongestFirst", stride=0, direction="Right")
    saved["padding"] = dict(
        strategy={"Fixed": 9},
        direction="Left",
        pad_to_multiple_of=None,
        pad_id=tokenizer.eos,
        pad_type_id=0,
        pad_token=tokenizer.hf.eos_token,
    )
    file.write_text(json.dumps(saved), encoding="utf-8")
    loaded = load_tokenizer(str(tmp_path))
    assert (loaded.bos, loaded.eos, loaded.size) == (tokenizer.bos, tokenizer.eos, tokenizer.size)
    for text in (PROMPT, "a"):
        assert loaded.encode(text) == tokenizer.encode(text)
    assert tokenizer_files(str(tmp_path)).keys() == {"tokenizer.json", "tokenizer_config.json"}


def test_no_eos_is_refused():
    """Without it responses are learned that never end."""
    hf = byte_level("gpt2")
    hf.eos_token = None
    with pytest.raises(UserError, match="somewhere: the tokenizer has no eos_token"):
        wrap(hf, "somewhere")


def test_bos_that_the_tokenizer_does_not_add_is_not_added():
    """Without it a model whose texts began without BOS (GPT-2's, Qwen's) is shown one."""
    hf = byte_level("gpt2")
    hf.bos_token = "<|begin|>"
    assert wrap(hf, "x").bos is None


@pytest.mark.parametrize("content, said", [(None, "no tokenizer.json"), ("{}", "cannot be read")])
def test_unreadable_tokenizer(content, said, tmp_path):
    """Without it a wrong model directory ends in a traceback of a library."""
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=said):
        load_tokenizer(str(tmp_path))


def test_some_tokenizers_find_eos_in_plain_text():
    """What `test_rows` refuses: were this to change, the refusal there would be dead code."""
    tokenizer = wrap(unigram(), "unigram")
    assert tokenizer.eos in tokenizer.encode("say </s> twice")
