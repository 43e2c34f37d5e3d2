"""Strict reading of dataclasses from JSON: every key present, none unknown, every value of the declared type."""

from __future__ import annotations

import functools
import math
import sys
import types
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ctsm.errors import CtsmError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Scalar = str | int | float | bool | None

T = TypeVar("T", bound="DataclassInstance")

_LARGEST = sys.float_info.max
_NAMES = {str: "a text", int: "an integer", float: "a finite number", bool: "true or false"}


@functools.cache
def _hints(cls: type[DataclassInstance]) -> dict[str, Any]:
    """Return the declared type of each field, resolved once per class (a file has thousands of lines)."""
    return get_type_hints(cls)


def from_json(cls: type[T], value: object, place: str, remedy: str) -> T:
    """Build the dataclass `cls` from a JSON object.

    Fields may be str, int, float, bool, Literal, tuple[str, ...], dict[str, Scalar], a dataclass, a tuple of
    dataclasses, or any of these or None. A JSON list becomes a tuple; an integer is accepted where a float is declared.

    Args:
        cls: the dataclass; every field must be present, whether or not it has a default.
        value: what the JSON parser returned.
        place: the file, line or key, for the message.
        remedy: what to do, for the end of the message, without a full stop.

    Raises:
        CtsmError: a key is missing or unknown, or a value has the wrong type; the message names the key.
    """
    if not isinstance(value, dict):
        raise CtsmError(f"{place}: must be a JSON object, not {_describe(value)}; {remedy}.")
    hints = _hints(cls)
    missing = [name for name in hints if name not in value]
    if missing:
        raise CtsmError(f"{place}: the field '{missing[0]}' is missing; {remedy}.")
    unknown = [name for name in value if name not in hints]
    if unknown:
        raise CtsmError(f"{place}: unknown field {unknown[0]!r}; {remedy}.")
    values: dict[str, Any] = {n: _convert(hint, value[n], place, n, remedy) for n, hint in hints.items()}
    return cls(**values)


def to_json(instance: DataclassInstance) -> dict[str, Any]:
    """Return a dataclass as a JSON object in the order of its fields (`from_json` reads it back)."""
    values = {field.name: getattr(instance, field.name) for field in fields(instance)}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    """Return a field's value as JSON can hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _convert(hint: object, value: object, place: str, name: str, remedy: str) -> object:
    """Return `value` as the type `hint`, or raise a CtsmError that names the field."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (option for option in get_args(hint) if option is not type(None))
        return _convert(inner, value, place, name, remedy)
    if isinstance(hint, type) and is_dataclass(hint):
        return from_json(hint, value, f"{place}: in '{name}'", remedy)
    if origin is tuple and is_dataclass(get_args(hint)[0]) and isinstance(value, list):
        places = (f"{place}: in '{name}', number {number}" for number in range(1, len(value) + 1))
        return tuple(from_json(get_args(hint)[0], item, at, remedy) for at, item in zip(places, value, strict=True))
    # Comparing works for integers of any size, where math.isfinite overflows; NaN compares false.
    if hint is float and type(value) in (int, float) and -_LARGEST <= cast(float, value) <= _LARGEST:
        return float(cast(float, value))
    if hint in (str, int, bool) and type(value) is hint:
        return value
    if origin is Literal and value in get_args(hint):
        return value
    if get_args(hint) == (str, ...) and isinstance(value, list) and all(type(item) is str for item in value):
        return tuple(value)
    if origin is dict and isinstance(value, dict) and all(_is_scalar(item) for item in value.values()):
        return value
    raise CtsmError(f"{place}: the field '{name}' must be {_expected(hint)}, not {_describe(value)}; {remedy}.")


def _is_scalar(value: object) -> bool:
    """Say whether a value is one that JSON can hold and that is not a container."""
    return isinstance(value, Scalar) and not (isinstance(value, float) and not math.isfinite(value))


def _expected(hint: object) -> str:
    """Name a declared type in words."""
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(f"'{option}'" for option in get_args(hint))
    if origin is tuple:
        return "a list of texts" if get_args(hint)[0] is str else "a list of objects"
    return _NAMES[hint] if isinstance(hint, type) and hint in _NAMES else "an object with simple values"


def _describe(value: object) -> str:
    """Show a wrong value, cut short so that the message stays one line."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
