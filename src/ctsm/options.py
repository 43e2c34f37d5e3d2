"""Checks that every options dataclass makes, so that a mistyped configuration is refused before anything is built."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_options(options: Any, section: str) -> None:
    """Check each field of a dataclass against its annotation: int, float, bool, str or Literal.

    Args:
        options: the dataclass instance.
        section: how the fields are named in messages and configurations, as in "options.size".

    Raises:
        ValueError: a value is of another type, not finite, or not among the choices.
    """
    hints = get_type_hints(type(options))
    for field in fields(options):
        value, expected, name = getattr(options, field.name), hints[field.name], f"{section}.{field.name}"
        if get_origin(expected) is Literal:
            if value not in get_args(expected):
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(str, get_args(expected)))}")
        elif expected is float:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}; it must be a finite number")
        elif not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise ValueError(f"{name} is {value!r}; it must be of type {expected.__name__}")
