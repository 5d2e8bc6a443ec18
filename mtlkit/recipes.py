"""What a run is made of as a line of Python, ``load('digits', main=3).only(['is_3'])``, and made again from it.

Options that stand at their default are left out, so that a new option leaves the recipes of older runs as they are.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch


def call(function: Callable, *given: Any, name: str | None = None, **options: Any) -> str:
    """The line that calls ``function`` with these arguments.

    Args:
        given: arguments to write by position, as they are.
        name: of the function in the line, its own when None.
        options: keyword arguments; those equal to the function's default are left out.
    """
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()}
    text = [of(value) for value in given]
    for key, value in sorted(options.items()):
        default, value = defaults.get(key), _plain(value)
        if type(value) is not type(default) or value != default:
            text.append(f"{key}={of(value)}")
    return f"{name or function.__name__}({', '.join(text)})"


def _plain(thing: Any) -> Any:
    """Numbers and arrays of NumPy as those of Python, so that equal values have one line."""
    return thing.tolist() if isinstance(thing, np.generic | np.ndarray) else thing


def of(thing: Any) -> str:
    """The line that makes ``thing``: a plain value, a class or function, or an object that remembers its arguments.

    Raises:
        TypeError: an object whose arguments cannot be read from its attributes, such as an inner function, or are
            objects other than those that it takes by default.
    """
    thing = _plain(thing)
    if isinstance(thing, torch.Tensor):
        return f"tensor({of(thing.tolist())})"
    if isinstance(thing, list | tuple):
        inner = ", ".join(map(of, thing))
        return f"[{inner}]" if isinstance(thing, list) else f"({inner}{',' * (len(thing) == 1)})"
    if isinstance(thing, dict):
        return "{" + ", ".join(f"{of(key)}: {of(value)}" for key, value in thing.items()) + "}"
    if thing is None or isinstance(thing, bool | int | float | str):
        return repr(thing)
    if isinstance(thing, torch.dtype):
        return str(thing).removeprefix("torch.")
    if isinstance(thing, os.PathLike):
        return repr(os.fspath(thing))
    if isinstance(thing, functools.partial):
        return call(thing.func, *thing.args, **thing.keywords)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        if "<" in thing.__qualname__:
            raise TypeError(f"{thing.__qualname__} is made inside a function, expected one that has a name of its own")
        return thing.__name__
    kind = type(thing)
    if dataclasses.is_dataclass(thing):
        return call(kind, **{field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)})
    options: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    for name in inspect.signature(kind).parameters:
        found = [getattr(thing, place) for place in (name, f"_{name}") if hasattr(thing, place)]
        if not found and inspect.signature(kind).parameters[name].default is inspect.Parameter.empty:
            raise TypeError(f"{kind.__name__} does not keep its argument {name!r}, so it cannot be written down")
        if found:
            plain = isinstance(_plain(found[0]), bool | int | float | str | None | list | tuple | torch.Tensor)
            (options if plain else objects)[name] = found[0]
    default = kind(**options) if objects else None
    for name, value in objects.items():
        of_default = getattr(default, name, getattr(default, f"_{name}", None))
        if of(value) != of(of_default):
            raise TypeError(f"{kind.__name__}: {name} is {value!r}, which cannot be written down; expected the default")
    return call(kind, **options)


def make(line: str, names: Mapping[str, Any]) -> Any:
    """What a recipe says: calls of ``names`` and of methods of what they return, with literal arguments.

    Raises:
        ValueError: anything else in the line, or a name that is not there.
    """
    try:
        return _evaluated(ast.parse(line, mode="eval").body, names)
    except SyntaxError:
        raise ValueError(f"{line!r} is no recipe") from None


def _evaluated(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Call):
        arguments = [_evaluated(argument, names) for argument in node.args]
        options: dict[Any, Any] = {keyword.arg: _evaluated(keyword.value, names) for keyword in node.keywords}
        if isinstance(node.func, ast.Attribute) and not node.func.attr.startswith("_"):
            return getattr(_evaluated(node.func.value, names), node.func.attr)(*arguments, **options)
        return _evaluated(node.func, names)(*arguments, **options)
    if isinstance(node, ast.Name):
        if node.id not in names:
            raise ValueError(f"no {node.id!r} is known to recipes, expected one of {', '.join(sorted(names))}")
        return names[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)!r} has no place in a recipe") from None


def remembered(build: Callable[..., Any]) -> Callable[..., Any]:
    """A function from a data set and options to a model, whose models carry the line that makes them: ``recipe``.

    A function from a model and options is taken as well; the line then holds the line of that model.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def built(*given: Any, **options: Any) -> Any:
        model = build(*given, **options)
        arguments = signature.bind(*given, **options).arguments
        first = arguments.pop(next(iter(signature.parameters)))
        inner = getattr(first, "recipe", "") if isinstance(first, torch.nn.Module) else "data"
        line = call(build, **arguments).replace("(", f"({inner}, ", 1).replace(f"({inner}, )", f"({inner})")
        model.recipe = line if inner else ""
        return model

    return built
