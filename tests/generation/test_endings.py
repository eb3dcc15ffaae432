"""How answers end: at stop strings, stop ids and limits, as a whole and as a stream."""

import pytest

from lfjax.data.tokenize import load_tokenizer
from lfjax.errors import UserError
from lfjax.generation.engine import make_engine
from lfjax.generation.rules import GREEDY
from lfjax.generation.scheduler import Request, stream
from tests.generation.test_generate import ONE, answers
from tests.losses.meshes import mesh_of
from tests.models_of import load_model


@pytest.fixture(scope="module")
def storyteller(stories):
    config, params = load_model(stories)
    engine = make_engine(config, mesh_of(ONE), slots=4, max_tokens=256)
    return engine, engine.place(params), load_tokenizer(stories)


def once(tokenizer, n=100, **how):
    return Request([1, *tokenizer.encode("Once upon a time")], n, GREEDY, **how)


def test_stop_strings(storyteller):
    *engine, tokenizer = storyteller
    whole, cut, either, never = answers(
        *engine,
        [
            once(tokenizer),
            once(tokenizer, stop=("She",)),
            once(tokenizer, stop=("zebra", " girl named", "Lily")),
            once(tokenizer, stop=("zebra",)),
        ],
        tokenizer,
    )
    assert whole == never and whole.finish == "length" and len(whole.ids) == 100
    assert cut.finish == either.finish == "stop"
    assert cut.text == whole.text[: whole.text.index("She")] != ""
    assert either.text == whole.text[: whole.text.index(" girl named")]
    # The ids hold what the stop string was read from, and not a token more.
    assert cut.ids == whole.ids[: len(cut.ids)] and len(cut.logps) == len(cut.ids)
    assert "She" in tokenizer.decode(cut.ids) and "She" not in tokenizer.decode(cut.ids[:-1])


def test_stop_ids(storyteller):
    *engine, tokenizer = storyteller
    (whole,) = answers(*engine, [once(tokenizer)], tokenizer)
    stop_id = whole.ids[20]
    first = whole.ids.index(stop_id)
    (cut,) = answers(*engine, [once(tokenizer, stop_ids=(0, stop_id))], tokenizer)
    assert cut.ids == whole.ids[: first + 1] and cut.finish == "stop"
    assert cut.text == tokenizer.decode(whole.ids[:first])
    assert cut.logps == whole.logps[: first + 1]
    (last,) = answers(*engine, [once(tokenizer, first + 1, stop_ids=(stop_id,))], tokenizer)
    assert last == cut  # at the limit the stop still counts


@pytest.mark.parametrize("stop", [(), ("She loved",)])
def test_stream(stop, storyteller):
    """The pieces make up the text; nothing is shown that is taken back."""
    *engine, tokenizer = storyteller
    request = once(tokenizer, stop=stop)
    (whole,) = answers(*engine, [request], tokenizer)
    pieces, completions = zip(*stream(*engine, request, tokenizer))
    assert "".join(pieces) == whole.text and completions[-1] == whole
    assert sum(map(bool, pieces)) > 1
    assert [c.finish for c in completions[:-1]] == [None] * (len(completions) - 1)


def test_stream_holds_half_a_character_back(storyteller):
    """A character of several byte tokens appears when it is whole."""
    from lfjax.generation.scheduler import _settled

    tokenizer = storyteller[2]
    ids = tokenizer.encode("né 😀!")
    texts = [tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1)]
    assert any("\N{REPLACEMENT CHARACTER}" in text for text in texts)
    shown = [text[: _settled(text, ("!?",))] for text in texts]
    assert all(texts[-1].startswith(text) for text in shown)
    assert shown[-1] == texts[-1].removesuffix("!")


def test_empty_stop_string(storyteller):
    *engine, tokenizer = storyteller
    with pytest.raises(UserError, match="request 0: a stop string is empty"):
        answers(*engine, [once(tokenizer, stop=("",))], tokenizer)
