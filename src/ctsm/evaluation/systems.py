"""The systems at a glance (`ctsm models`): size, paper, and what was measured of them."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ctsm.evaluation.groups import Group, group_records
from ctsm.evaluation.paper import TABLE_1
from ctsm.evaluation.records import read_records
from ctsm.models import REGISTRY, model_class, options_class

if TYPE_CHECKING:
    from rich.table import Table

VOCABULARY = 23_712  # the paper's; nothing else in a model has this size


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: as in configurations.
        parameters: of the full model with its default options and the paper's vocabulary.
        inner: those of them outside the embedding, the output layer and whatever else grows with the vocabulary.
        paper: the first line of the model's file.
        status: the scores of its longest run on test, or what is missing.
    """

    name: str
    parameters: int
    inner: int
    paper: str
    status: str


def list_systems(results: Path) -> list[System]:
    """Return the registered systems, those of the paper's Table 1 first and in its order.

    Args:
        results: folder of records, for the status.

    Raises:
        CtsmError: a record is wrong.
    """
    groups = group_records(read_records([results])) if any(results.glob("*.json")) else []
    order = [row.model for row in TABLE_1 if row.model in REGISTRY]
    return [_system(name, groups) for name in [*order, *(name for name in REGISTRY if name not in order)]]


def systems_table(systems: Sequence[System]) -> Table:
    """Return the systems as a table for the terminal."""
    from rich.table import Table

    table = Table(caption=f"parameters with {VOCABULARY:,} words; inner: without layers as large as the vocabulary")
    for name in ("name", "parameters", "inner", "paper", "status"):
        table.add_column(name, justify="right" if name in ("parameters", "inner") else "left")
    for one in systems:
        cited = re.search(r"\(([^()]*)\)$", one.paper)  # authors, venue and year; the title would fill the screen
        paper = cited[1] if cited else one.paper
        table.add_row(one.name, f"{one.parameters:,}", f"{one.inner:,}", paper, one.status)
    return table


def _system(name: str, groups: Sequence[Group]) -> System:
    cls = model_class(name)
    with torch.device("meta"):  # shapes without memory
        sizes = [parameter.shape for parameter in cls(options_class(name)(), VOCABULARY).parameters()]
    counts = [(shape.numel(), VOCABULARY in shape) for shape in sizes]
    paper = (inspect.getdoc(sys.modules[cls.__module__]) or "-").splitlines()[0].rstrip(".")
    total, inner = sum(count for count, _ in counts), sum(count for count, words in counts if not words)
    return System(name, total, inner, paper, _status(name, groups))


def _status(name: str, groups: Sequence[Group]) -> str:
    """Return the scores of the full model's longest run on test."""
    own = [group for group in groups if (group.first.model, group.first.variant, group.options) == (name, "", "")]
    tested = [group for group in own if group.first.split == "test"]
    if not tested:
        return "on dev only" if own else "not measured"
    best = max(tested, key=lambda group: (group.first.iterations, len(group.records)))
    scores = f"Acc {best.cell('acc')}, PPL {best.cell('ppl_example')}"
    return f"{scores} on test, limit {best.first.iterations:,}, seeds {best.seeds}"
