"""What checks the shapes in signatures while tests run."""

from beartype import beartype
from jaxtyping import AbstractArray


def checked(function):
    """The function with its shapes checked, and only these: wrong arguments of other kinds are its own to refuse."""
    found = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in found.items() if _has_shape(hint)}
    return beartype(function)


def _has_shape(hint):
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_shape, getattr(hint, "__args__", ())))
