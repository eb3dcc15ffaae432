"""Templates: the ids that transformers gives, special tokens from the template alone, one BOS, and
the end of turn as the end of a response."""

import json
from functools import cache

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lfjax.data.records import Feedback, Message, Record
from lfjax.data.rows import encode_records
from lfjax.data.templates import (
    JUDGMENT,
    encode_prompt,
    export_text,
    render_prompt,
    speaking,
    template_text,
)
from lfjax.data.tokenize import encode_supervised, load_tokenizer, wrap
from lfjax.errors import UserError
from lfjax.methods.cut import METHOD
from tests.conftest import shared
from tests.data.tokenizers_of import KINDS, byte_level, tokenizer_of

# As models have them: ChatML, Llama 3's with its own BOS, Llama 2's with a BOS before every turn.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADERS = (
    "{{- bos_token }}{%- if tools %}{{- 'tools' }}{%- endif %}{%- for m in messages %}"
    "{{- '<|im_start|>' + m['role'] + '<|im_end|>\\n\\n' + m['content'] | trim + '<|eot|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant<|im_end|>\\n\\n' }}{%- endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() "
    "+ ' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('no system prompts') }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "inst": INST}
SINGLE = [Message("user", "Name a colour.")]
SEVERAL = [
    Message("user", " Name a colour: \n"),
    Message("assistant", "The answer is blue."),
    Message("user", "Another one?"),
]
NAMES = "a <|im_end|> b<s></s><|begin|><|end|> <|eot|>c"
CHAT = ["<|im_start|>", "<|im_end|>", "<|eot|>"]


def hugging_face(kind):
    """A tokenizer of the kind with chat tokens, made anew: `wrap` changes what it is given."""
    if kind == "sentencepiece":
        hf = PreTrainedTokenizerFast.from_pretrained(str(shared("models/stories260k")))
    else:
        hf = byte_level(kind)
    hf.add_special_tokens({"additional_special_tokens": CHAT})
    return hf


@cache
def chat_tokenizer(kind):
    return wrap(hugging_face(kind), kind)


@cache
def oracle(kind):
    return hugging_face(kind)


def ids_of(kind, name):
    return oracle(kind).convert_tokens_to_ids(name)


def expected_ids(kind, template, messages, respond=True):
    """Ids that transformers gives, with the BOS that the model has and the template forgot."""
    turns = [{"role": m.role, "content": m.content} for m in messages]
    ids = oracle(kind).apply_chat_template(
        turns, chat_template=template, add_generation_prompt=respond
    )["input_ids"]
    bos = chat_tokenizer(kind).bos
    return ids if bos is None or ids[0] == bos else [bos, *ids]


each_kind = pytest.mark.parametrize("kind", KINDS)
# A template that names a BOS is for a tokenizer that has one.
GOING_TOGETHER = [
    (kind, name)
    for kind in KINDS
    for name in TEMPLATES
    if name == "chatml" or kind in ("sentencepiece", "llama3")
]
each_pair = pytest.mark.parametrize("kind, name", GOING_TOGETHER)


@each_pair
@pytest.mark.parametrize("messages", [SINGLE, SEVERAL], ids=["single", "several"])
def test_ids_are_those_of_transformers(kind, name, messages):
    """Without it a chat model is asked in other tokens than those it was trained on."""
    tokenizer, template = chat_tokenizer(kind), TEMPLATES[name]
    expected = expected_ids(kind, template, messages)
    assert encode_prompt(tokenizer, template, messages) == expected
    text = render_prompt(template, messages, tokenizer=tokenizer)
    ids, first = encode_supervised(tokenizer, text, "The sky.")
    assert ids[:first].tolist() == expected
    if name != "inst":
        assert ids_of(kind, "<|im_start|>") in expected
    if tokenizer.bos is not None:
        turns = 2 if (name, len(messages)) == ("inst", 3) else 1
        assert expected.count(tokenizer.bos) == turns and expected[0] == tokenizer.bos


@pytest.mark.parametrize("kind, name", [p for p in GOING_TOGETHER if p[1] != "inst"])
def test_quoted_names_of_special_tokens_are_plain_text(kind, name):
    """Without it a message that mentions a special token ends its own turn, or opens another's."""
    tokenizer, template = chat_tokenizer(kind), TEMPLATES[name]
    quoting = [*SEVERAL[:2], Message("user", NAMES)]
    special = set(oracle(kind).all_special_ids)
    ids = encode_prompt(tokenizer, template, quoting)
    clean = encode_prompt(tokenizer, template, SEVERAL)
    assert [i for i in ids if i in special] == [i for i in clean if i in special]
    assert NAMES in tokenizer.hf.decode(ids, skip_special_tokens=False)
    judged = encode_prompt(tokenizer, template, SEVERAL, f"It says {NAMES}.")
    assert [i for i in judged if i in special] == [i for i in clean if i in special]
    text = render_prompt(template, quoting, tokenizer=tokenizer)
    whole, first = encode_supervised(tokenizer, text, NAMES)
    assert whole[:first].tolist() == ids
    assert not special & set(whole[first:-1].tolist())
    assert tokenizer.hf.decode(whole[first:-1], skip_special_tokens=False).strip() == NAMES


def metaspace(scheme):
    """A BPE with a space before every text (`always`), or only at the start of all (`first`)."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>", *CHAT], show_progress=False
    )
    texts = [m.content + "user assistant\n <|eot|>" for m in SEVERAL]
    backend.train_from_iterator(texts * 9, trainer)
    return wrap(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), scheme)


@pytest.mark.parametrize("kind", [*KINDS, "always", "first"])
def test_quoting_changes_nothing_else(kind):
    """Without it a space comes or goes beside a special token when some message quotes one."""
    tokenizer = metaspace(kind) if kind in ("always", "first") else chat_tokenizer(kind)
    quoting = [Message("user", "Name a <|eot|>"), *SEVERAL[1:]]
    clean = [Message("user", "Name a colour"), *SEVERAL[1:]]
    start, end = (tokenizer.hf.convert_tokens_to_ids(name) for name in CHAT[:2])
    ids, expected = (encode_prompt(tokenizer, CHATML, m) for m in (quoting, clean))
    assert ids[ids.index(end) :] == expected[expected.index(end) :]
    before = expected.index(start) + len(tokenizer.encode("user")) + 1
    assert ids[:before] == expected[:before]
    words = tokenizer.hf.decode(ids[ids.index(start) + 1 : ids.index(end)])
    assert words.strip() == "user\nName a <|eot|>"


@each_kind
@pytest.mark.parametrize(
    "template, end",
    [
        (CHATML, "<|im_end|>"),
        (HEADERS, "<|eot|>"),
        (INST, None),
        ("{{ messages[-1].content }}", None),
        ("{{ raise_exception('never') }}", None),
        (template_text("tulu"), None),
        (template_text("alpaca"), None),
    ],
)
def test_end_of_turn(kind, template, end):
    """Without it a chat model learns to end its answers with a token at which nobody stops."""
    tokenizer = chat_tokenizer(kind)
    expected = tokenizer.eos if end is None else ids_of(kind, end)
    assert speaking(tokenizer, template).eos == expected


def judged_record(response="The answer is blue.", said="It's wrong."):
    feedback = (Feedback(said, "negative"),)
    return Record("r", "test", tuple(SEVERAL), response, feedback=feedback)


@each_kind
@pytest.mark.parametrize("template", [CHATML, template_text("tulu")], ids=["own", "tulu"])
@pytest.mark.parametrize("response", ["The answer is blue.", "\n\nThe end.", NAMES])
def test_twins_under_a_chat_template(kind, template, response):
    """Without it twins are compared token by wrong token under chat templates."""
    tokenizer = chat_tokenizer(kind)
    views = METHOD.views_of({**METHOD.options, "misalign": "fake_positive"})
    (unit,) = encode_records(
        [judged_record(response)], views, tokenizer, template, max_tokens=800, row_tokens=2400
    ).units
    end = speaking(tokenizer, template).eos
    targets = [s.ids[s.first :].tolist() for s in unit.segments]
    assert len(targets) == 3 and targets[0] == targets[1] == targets[2]
    assert targets[0][-1] == end and targets[0].count(end) == 1
    for segment, said in zip(unit.segments, (None, "It's wrong.", METHOD.options["praise"])):
        ids = segment.ids[: segment.first].tolist()
        assert ids == encode_prompt(tokenizer, template, SEVERAL, said)
        assert (said or "no such text") in tokenizer.decode(ids) or said is None
        if tokenizer.bos is not None:
            assert ids[0] == tokenizer.bos and ids.count(tokenizer.bos) == 1


def test_judgment_in_a_template_that_knows_none():
    """Without it both views of a flawed response show the model the same prompt."""
    text = render_prompt(CHATML, SEVERAL, "It's wrong.")
    assert f"Another one?{JUDGMENT}It's wrong.<|im_end|>" in text
    assert text.count("It's wrong.") == 1
    knowing = CHATML + "{{ judgment or '' }}"
    assert render_prompt(knowing, SEVERAL, "It's wrong.").endswith("assistant\nIt's wrong.")


def test_tulu():
    """Without it a Tulu model is asked in another format than its own."""
    tokenizer, template = tokenizer_of("llama3"), template_text("tulu")
    system = [Message("system", "Be brief."), *SEVERAL]
    assert render_prompt(template, system, tokenizer=tokenizer) == (
        "<|system|>\nBe brief.\n<|user|>\nName a colour:\n<|assistant|>\n"
        "The answer is blue.<|end|>\n<|user|>\nAnother one?\n<|assistant|>\n"
    )
    assert render_prompt(template, SINGLE, "Too short.") == (
        f"<|user|>\nName a colour.{JUDGMENT}Too short.\n<|assistant|>\n"
    )
    ids = encode_prompt(tokenizer, template, system)
    assert ids.count(tokenizer.eos) == 1 and ids[0] == tokenizer.bos


@each_pair
def test_exported_template_puts_one_bos(kind, name):
    """Without it programs that use the export show the model two BOS, or none."""
    tokenizer = chat_tokenizer(kind)
    exported = export_text(TEMPLATES[name], tokenizer)
    ids = expected_ids(kind, exported, SINGLE)
    assert ids == encode_prompt(tokenizer, TEMPLATES[name], SINGLE)
    assert encode_prompt(tokenizer, exported, SINGLE) == ids  # an export that is trained further
    assert export_text(exported, tokenizer) == exported
    if tokenizer.bos is not None:
        assert ids.count(tokenizer.bos) == 1


def test_bos_that_only_the_template_puts():
    """Without it a model whose tokenizer adds no BOS loses the one of its template."""
    hf = hugging_face("gpt2")
    hf.bos_token = "<|begin|>"
    tokenizer = wrap(hf, "x")
    assert tokenizer.bos is None
    assert encode_prompt(tokenizer, HEADERS, SINGLE)[0] == hf.bos_token_id


@pytest.mark.parametrize("saved", ["jinja", "text", "list"])
def test_own_template(saved, tmp_path):
    """Without it a chat model is asked in a format that is not its own."""
    hf = hugging_face("llama3")
    hf.save_pretrained(tmp_path)
    if saved == "jinja":
        (tmp_path / "chat_template.jinja").write_text(CHATML)
    else:
        file = tmp_path / "tokenizer_config.json"
        found = CHATML if saved == "text" else [{"name": "default", "template": CHATML}]
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": found}))
    template = template_text("own", str(tmp_path))
    assert template == CHATML
    ids = encode_prompt(load_tokenizer(str(tmp_path)), template, SEVERAL)
    assert ids == expected_ids("llama3", CHATML, SEVERAL)


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "the model has no chat template"),
        ("{}", "the model has no chat template"),
        ('{"chat_template": [{"name": "rag", "template": "x"}]}', "has no chat template"),
        ("{", "tokenizer_config.json: not JSON"),
    ],
)
def test_model_without_a_template(content, said, tmp_path):
    """Without it a base model is shown a format that nobody chose."""
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=said):
        template_text("own", str(tmp_path))


@pytest.mark.parametrize(
    "template, messages, said",
    [
        (INST, [Message("system", "x"), *SINGLE], "no system prompts"),
        ("{{ judgment }}{{ mesages }}", SINGLE, "'mesages' is undefined"),
        ("{{ judgment }}{{ bos_token }}", SINGLE, "'bos_token' is undefined"),
        ("{% if %}", SINGLE, "cannot be rendered"),
        ("{{ messages.append(1) }}", SINGLE, "cannot be rendered"),
    ],
)
def test_template_that_cannot_be_rendered(template, messages, said):
    """Without it a slip in a template leaves a part of every prompt out, or ends in a traceback."""
    with pytest.raises(UserError) as error:
        render_prompt(template, messages)
    assert said in str(error.value)


def test_dialect_of_chat_templates():
    """Without it templates of published models are refused."""
    template = (
        "{% for m in messages %}{% if m.tool_calls %}no{% endif %}"
        "{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}"
        "{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "{{ '' if strftime_now is defined else 'no date' }}"
    )
    text = render_prompt(template, SEVERAL)
    assert text == '{"role": "user", "content": " Name a colour: \\n"}no date'


def test_template_names():
    """Without it a misspelt template is a file that is not found."""
    with pytest.raises(UserError, match=r"Did you mean 'alpaca'.*alpaca, bare, own, tulu"):
        template_text("alpac")
    with pytest.raises(UserError, match="'own' is the template of a model directory"):
        template_text("own")
