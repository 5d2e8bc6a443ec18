"""What checks the shapes in signatures while tests run."""

from collections.abc import Callable
from types import UnionType
from typing import get_origin, get_type_hints

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped


def checked(function):
    """The function with its shapes checked, and only these: wrong arguments of other kinds are its own to refuse."""
    found = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in found.items() if _has_shape(hint)}
    return beartype(function)


def misfits(found):
    """Fields of a named tuple, and of those in it, that have not the shapes that its class says, axes in common."""
    with jaxtyped("context"):
        return list(_misfits(found))


def _misfits(found):
    hints = get_type_hints(type(found))
    for name, value in found._asdict().items():
        hint = hints[name]
        if hasattr(value, "_fields"):
            yield from _misfits(value)
        elif isinstance(hint, type | UnionType) and _has_shape(hint) and not isinstance(value, hint):
            yield f"{type(found).__name__}.{name}"


def _has_shape(hint):
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    if get_origin(hint) is Callable:  # what a function takes and returns shows only when it is called
        return False
    return any(map(_has_shape, getattr(hint, "__args__", ())))
