"""Prompt templates: how messages, and a judgment where there is one, become the text before a
response.

A template is a Jinja text in the dialect of chat templates, with one more variable, `judgment`. It
is saved with every checkpoint and exported as the model's chat template, so that training and
inference show a model the same text.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from lfjax.data.records import Message
from lfjax.errors import UserError, nearest

FOLDER = Path(__file__).parent


def template_text(name: str) -> str:
    """The text of a shipped template (`alpaca`) or of a .jinja file.

    Raises: UserError if there is none of that name.
    """
    file = Path(name) if name.endswith(".jinja") else FOLDER / f"{name}.jinja"
    if not file.is_file():
        known = [p.stem for p in FOLDER.glob("*.jinja")]
        raise UserError(
            f"template: '{name}' not found. {nearest(name, known)} Or give the path of a .jinja "
            "file."
        )
    return file.read_text(encoding="utf-8")


@lru_cache(maxsize=16)
def _compiled(template: str):
    from jinja2.sandbox import (
        ImmutableSandboxedEnvironment,
    )  # templates may come with a model: they are not trusted

    # The settings of transformers' chat templates, so that an exported template renders to the same
    # text there.
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)


def render_prompt(template: str, messages: Sequence[Message], judgment: str | None = None) -> str:
    """The text up to where the response begins.

    Args:
      template: the Jinja text.
      messages: the conversation so far.
      judgment: what is said of the response that follows; None leaves the judgment's part out.

    Raises: UserError if the template cannot be rendered.
    """
    import jinja2

    turns = [{"role": m.role, "content": m.content} for m in messages]
    try:
        return _compiled(template).render(
            messages=turns, judgment=judgment, add_generation_prompt=True
        )
    except jinja2.TemplateError as error:
        raise UserError(f"template: cannot be rendered ({error}).") from None
