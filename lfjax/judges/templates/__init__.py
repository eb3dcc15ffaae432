"""Templates of questions to a judge: Jinja files with a block `user` and, if the judge has a system
message, a block `system`."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from lfjax.data.records import Message
from lfjax.errors import UserError, nearest

FOLDER = Path(__file__).parent
BLOCKS = ("system", "user")


@lru_cache(maxsize=16)
def _blocks(path: str, fields: tuple[str, ...]):
    """Role -> what renders its block. Checked before anything is asked, and paid."""
    from jinja2 import StrictUndefined, TemplateError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a template ({error}).") from None
    try:
        template = environment.from_string(text)
        asked_for = meta.find_undeclared_variables(environment.parse(text))
    except TemplateError as error:
        raise UserError(f"{path}: is not a Jinja template ({error}).") from None
    for name in sorted(asked_for - set(fields)):
        raise UserError(f"{path}: unknown field '{name}'. {nearest(name, fields)}")
    for name in template.blocks:
        if name not in BLOCKS:
            raise UserError(f"{path}: unknown block '{name}'. {nearest(name, BLOCKS)}")
    if "user" not in template.blocks:
        raise UserError(f"{path}: has no block 'user' ({{% block user %}} … {{% endblock %}}).")
    return {role: template.blocks[role] for role in BLOCKS if role in template.blocks}, template


def messages_of(path: str | Path, fields: Mapping[str, str]) -> tuple[Message, ...]:
    """The conversation that a template makes of the fields. Texts in them are never read as
    template.

    Raises: UserError for a template that is missing or malformed, or asks for another field.
    """
    import jinja2

    blocks, template = _blocks(str(path), tuple(fields))
    try:
        context = template.new_context(dict(fields))
        texts = {role: "".join(render(context)).strip() for role, render in blocks.items()}
    except jinja2.TemplateError as error:
        raise UserError(f"{path}: cannot be rendered ({error}).") from None
    return tuple(Message(role, text) for role, text in texts.items() if text)
