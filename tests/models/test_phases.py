"""What of a schedule decides which operations a step has: a step is recorded on a GPU once for each phase."""

from __future__ import annotations

from typing import Any

import pytest

from ctsm.models import REGISTRY, model_class, options_class
from ctsm.models.base import EmpatheticModel

EMPDG = {"generator_steps": 10, "discriminator_steps": 4, "adversarial_every": 5}


def model(name: str, **changes: Any) -> EmpatheticModel:
    options = options_class(name)(**changes)
    return model_class(name)(options, 40)


@pytest.mark.parametrize(
    ("step", "recorded"),
    [(1, True), (10, True), (11, False), (14, False), (15, False), (16, True), (19, True), (20, False), (21, True)],
)
def test_steps_of_empdgs_discriminators_are_never_recorded(step: int, recorded: bool) -> None:
    """Steps 11 to 14 train them alone; from then on they take part in every fifth step."""
    empdg = model("empdg", **EMPDG)
    empdg.step = step
    assert empdg.phase == ("" if recorded else None)


def test_pre_training_of_case_is_a_phase_of_its_own() -> None:
    case = model("case", pretrain_steps=3)
    phases = []
    for step in range(1, 6):
        case.step = step
        phases.append(case.phase)
    assert phases == ["pre-training"] * 3 + [""] * 2


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_system_has_a_phase_before_its_first_step(name: str) -> None:
    assert model(name).phase == ""
