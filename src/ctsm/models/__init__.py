"""The systems, found by name. Nothing heavy is imported until a model is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctsm.errors import CtsmError

if TYPE_CHECKING:
    from ctsm.models.base import EmpatheticModel


@dataclass(frozen=True)
class ModelEntry:
    """Where a model lives: its module, class and options dataclass."""

    module: str
    model: str
    options: str


REGISTRY = {
    "case": ModelEntry("ctsm.models.case", "CASE", "CASEOptions"),
    "cem": ModelEntry("ctsm.models.cem", "CEM", "CEMOptions"),
    "ctsm": ModelEntry("ctsm.models.ctsm", "CTSM", "CTSMOptions"),
    "empdg": ModelEntry("ctsm.models.empdg", "EmpDG", "EmpDGOptions"),
    "kemp": ModelEntry("ctsm.models.kemp", "KEMP", "KEMPOptions"),
    "mime": ModelEntry("ctsm.models.mime", "MIME", "MIMEOptions"),
    "moel": ModelEntry("ctsm.models.moel", "MoEL", "MoELOptions"),
    "transformer": ModelEntry("ctsm.models.transformer", "Transformer", "TransformerOptions"),
}


def model_class(name: str) -> type[EmpatheticModel]:
    """Import and return a model class."""
    entry = _entry(name)
    found: type[EmpatheticModel] = getattr(import_module(entry.module), entry.model)
    return found


def options_class(name: str) -> type[Any]:
    """Import and return a model's options dataclass."""
    entry = _entry(name)
    found: type[Any] = getattr(import_module(entry.module), entry.options)
    return found


def _entry(name: str) -> ModelEntry:
    if name not in REGISTRY:
        raise CtsmError(f"unknown model {name!r}; choose one of {', '.join(sorted(REGISTRY))}.")
    return REGISTRY[name]
