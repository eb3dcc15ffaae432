"""Prompt templates: how messages, and a judgment where there is one, become the text before a
response.

A template is a Jinja text in the dialect of chat templates, with one more variable, `judgment`. It
is saved with every checkpoint and exported as the model's chat template, so that training and
inference show a model the same text. A chat template of a model, which knows no `judgment`, is
shown it at the end of the last user message (`JUDGMENT`).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from lfjax.data.records import Message
from lfjax.data.tokenize import Tokenizer
from lfjax.errors import UserError, nearest

FOLDER = Path(__file__).parent
JUDGMENT = "\n\nYour answer will be judged in these words:\n"
PROBE = "probe"


def template_text(name: str, model_path: str | None = None) -> str:
    """The text of a shipped template (`alpaca`, `tulu`), of a .jinja file, or, by the name `own`,
    the chat template of a model directory.

    Raises: UserError if there is none of that name, or the model has none.
    """
    if name == "own":
        return _own(model_path)
    file = Path(name) if name.endswith(".jinja") else FOLDER / f"{name}.jinja"
    if not file.is_file():
        known = ["own", *(p.stem for p in FOLDER.glob("*.jinja"))]
        raise UserError(
            f"template: '{name}' not found. {nearest(name, known)} Or give the path of a .jinja "
            "file."
        )
    return file.read_text(encoding="utf-8")


def _own(path: str | None) -> str:
    """The chat template of a model directory: `chat_template.jinja`, or a field of the tokenizer's
    configuration (a text, or a list of named ones, of which `default` is taken)."""
    if path is None:
        raise UserError("template: 'own' is the template of a model directory; none is given.")
    file, config = Path(path) / "chat_template.jinja", Path(path) / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    try:
        content = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except ValueError as error:
        raise UserError(f"{config}: not JSON ({error}).") from None
    found = content.get("chat_template")
    if isinstance(found, list):
        found = {t.get("name"): t.get("template") for t in found}.get("default")
    if not isinstance(found, str):
        raise UserError(
            f"{path}: the model has no chat template (no chat_template.jinja, no 'chat_template' "
            "in tokenizer_config.json); set data.template to alpaca, tulu or a .jinja file."
        )
    return found


@lru_cache(maxsize=16)
def _compiled(template: str):
    """(the compiled template, whether it has a place for a judgment)."""
    from jinja2 import StrictUndefined, TemplateError, Undefined, meta, nodes
    from jinja2.ext import Extension, loopcontrols

    # Templates may come with a model: they are not trusted.
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The mark of what an assistant says, which some templates carry: only its content counts
        here."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message):
        raise TemplateError(message)

    def tojson(value, ensure_ascii=False, **how):  # Jinja's own escapes for HTML
        return json.dumps(value, ensure_ascii=ensure_ascii, **how)

    # The settings of transformers' chat templates, so that an exported template renders to the same
    # text there.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    judged = "judgment" in meta.find_undeclared_variables(environment.parse(template))
    # A template written for this program names what it is given, so that another name is a slip.
    # Models' templates ask for what other programs may give (`tools`, `message.tool_calls`).
    environment.undefined = StrictUndefined if judged else Undefined
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = tojson
    return environment.from_string(template), judged


def render_prompt(
    template: str,
    messages: Sequence[Message],
    judgment: str | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    respond: bool = True,
) -> str:
    """The text up to where the response begins.

    Args:
      template: the Jinja text.
      messages: the conversation so far.
      judgment: what is said of the response that follows; None leaves the judgment's part out.
      tokenizer: whose special tokens the template may name (`bos_token`, `eos_token`, …). With it
        the text is for `Tokenizer.encode_rendered`: names of special tokens that messages and
        judgment quote are marked, and the BOS that the template begins with is left out where
        `Tokenizer.bos` is put before every text.
      respond: ask for a response (`add_generation_prompt`).

    Raises: UserError if the template cannot be rendered.
    """
    import jinja2

    plain = tokenizer.plain if tokenizer else str
    turns = [{"role": m.role, "content": plain(m.content)} for m in messages]
    judgment = plain(judgment) if judgment is not None else None
    names = _special_names(tokenizer) if tokenizer else {}
    try:
        compiled, judged = _compiled(template)
        if judgment and not judged:
            turns[-1]["content"] += JUDGMENT + judgment
        given = dict(messages=turns, add_generation_prompt=respond, tools=None, documents=None)
        text = compiled.render(**names, **given, judgment=judgment)
    except jinja2.TemplateError as error:
        raise UserError(f"template: cannot be rendered ({error}).") from None
    bos = names.get("bos_token")
    return text.removeprefix(bos) if bos and tokenizer.bos is not None else text


def _special_names(tokenizer: Tokenizer) -> dict[str, str]:
    """What templates call the special tokens -> their names in a text."""
    return {k: v for k, v in tokenizer.hf.special_tokens_map.items() if isinstance(v, str)}


def encode_prompt(
    tokenizer: Tokenizer, template: str, messages: Sequence[Message], judgment: str | None = None
) -> list[int]:
    """Ids of BOS + prompt, as in training. Raises: UserError if the template cannot be rendered."""
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    text = render_prompt(template, messages, judgment, tokenizer=tokenizer)
    return start + tokenizer.encode_rendered(text)


def speaking(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """The tokenizer with the token as EOS that the template puts after an assistant's message.

    Chat models end a turn with a token of their own (`<|im_end|>`, `<end_of_turn>`), which need not
    be the tokenizer's EOS. Without one after the message, EOS stays.
    """
    turns = [Message("user", PROBE), Message("assistant", PROBE)]
    try:
        text = render_prompt(template, turns, tokenizer=tokenizer, respond=False)
    except UserError:
        return tokenizer
    after = text.rpartition(PROBE)[2].lstrip()
    added = tokenizer.hf.backend_tokenizer.get_added_tokens_decoder().items()
    found = [(len(t.content), i) for i, t in added if t.content and after.startswith(t.content)]
    return replace(tokenizer, eos=max(found)[1]) if found else tokenizer


def export_text(template: str, tokenizer: Tokenizer) -> str:
    """The chat template to save with a model, for programs that render it and add no BOS of their
    own: one BOS comes first where the model has one."""
    if tokenizer.bos is None:
        return template
    # With no BOS to leave out, what the template itself begins with is seen.
    bare = replace(tokenizer, bos=None)
    text = render_prompt(template, [Message("user", PROBE)], tokenizer=bare)
    return template if text.startswith(tokenizer.hf.bos_token) else "{{ bos_token }}" + template
