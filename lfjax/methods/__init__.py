"""The methods, in one dict. Each is a file that can be read beside its paper."""

from lfjax.errors import UserError, nearest
from lfjax.methods import cut, sft
from lfjax.methods.method import Method

METHODS: dict[str, Method] = {"sft": sft.METHOD, "cut": cut.METHOD}


def get_method(name: str) -> Method:
    """A method by name. Raises: UserError listing the known ones."""
    if name not in METHODS:
        raise UserError(f"method: unknown '{name}'. {nearest(name, METHODS)}")
    return METHODS[name]
