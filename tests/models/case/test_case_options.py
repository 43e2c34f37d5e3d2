"""CASE's sizes, tables and options."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ctsm.models.case import CASE, CASEOptions

PAD = 1


def test_parameter_counts() -> None:
    """docs/models/case.md lists the differences from the published 14,613,047 (V = 23,713)."""
    size = 23_713
    with torch.device("meta"):
        model = CASE(CASEOptions(), size)
    total = sum(parameter.numel() for parameter in model.parameters())
    published = 14_613_047
    unused = 2 * (300 * 300 + 300) + 4 * 300 * 300 + (4 * (300 * 300 + 300) + 300 * 600) + 301 + 3 * 300
    assert total - size * 601 == published - unused + 300
    blocks = {
        "context_encoder": 752_400, "cognition_encoder": 752_400, "reaction_encoder": 752_400,
        "reaction_refiner": 842_400,
        "cognition_graph": 541_200 + 2_100 + 181_800, "concept_graph": 360_000 + 181_800, "intensity_norm": 600,
        "reaction": 90_300, "prior_query": 90_300, "bag": 180_300 + 301 * size, "emotion_mix": 180_300,
        "emotion_gate": 301, "emotion": 9_632, "fusion": 270_000, "fused": 90_000, "decoder": 1_114_200,
        "embedding": 300 * size, "generator": 301 * size,
    }  # fmt: skip
    for name, expected in blocks.items():
        assert sum(parameter.numel() for parameter in model.get_submodule(name).parameters()) == expected, name
    assert sum(blocks.values()) + 300 == total  # the mark of concepts


def test_tables_fill_embedding_and_intensity(build: SimpleNamespace) -> None:
    model = CASE(CASEOptions(size=12, depth=8), build.vocabulary)
    tables = build.tables(12)
    model.install(tables)
    assert torch.equal(model.intensity, tables.intensity)
    assert torch.equal(model.embedding.weight[7:], tables.vectors[7:])
    assert not model.embedding.weight[PAD].any()
    assert "intensity" in model.state_dict()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 0}, "size"),
        ({"graph_filter_size": 0}, "graph_filter_size"),
        ({"depth": 9}, "depth"),
        ({"size": 301}, "size"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"pretrain_steps": -1}, "pretrain_steps"),
        ({"coarse_weight": -1.0}, "coarse_weight"),
        ({"fine_weight": math.nan}, "fine_weight"),
        ({"double_sigmoid": "yes"}, "double_sigmoid"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=rf"options\.{named}"):
        CASEOptions(**changes)
