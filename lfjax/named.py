"""Functions that a config names."""

import importlib
from collections.abc import Callable
from typing import Any

from lfjax.errors import UserError, nearest


def find_function(where: str, name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    Args:
      where: the setting, for messages.

    Raises: UserError if there is no such function.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(f"{where}='{name}': expected package.module:function.")
    try:
        holder = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{where}='{name}': {module} cannot be imported ({error}).") from None
    function = getattr(holder, attribute, None)
    if not callable(function):
        known = [k for k, v in vars(holder).items() if callable(v) and not k.startswith("_")]
        raise UserError(f"{where}='{name}': no function '{attribute}'. {nearest(attribute, known)}")
    return function
