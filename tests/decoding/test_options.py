"""What decoding options accept and refuse."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.decoding.options import DecodingOptions

COMMON: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.integers(1, 1000),
    "no_repeat_ngram": st.integers(0, 60),
    "repetition_penalty": st.floats(1, 100),
    "precision": st.sampled_from(["fp32", "bf16"]),
}
OWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "greedy": {},
    "beam": {"beam_size": st.integers(4, 1000), "length_penalty": st.floats(0, 10), "n_best": st.integers(1, 4)},
    "sample": {
        "temperature": st.floats(0, 100, exclude_min=True),
        "top_k": st.integers(0, 10**6),
        "top_p": st.floats(0, 1, exclude_min=True),
        "seed": st.none() | st.integers(0, 2**63 - 1),
    },
}


@pytest.mark.parametrize("method", OWN)
@given(data=st.data())
def test_sensible_values_are_taken(method: str, data: st.DataObject) -> None:
    values = data.draw(st.fixed_dictionaries({}, optional=COMMON | OWN[method]))
    options = DecodingOptions(method=method, **values)  # type: ignore[arg-type]
    assert {name: getattr(options, name) for name in values} == values
    assert options.controls_repetition == (options.no_repeat_ngram > 0 or options.repetition_penalty > 1)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("method", ["", "Greedy", "top", None]),
        ("max_tokens", [0, -3, 1001, 2.5, "7", True, None]),
        ("beam_size", [0, -1, 1001, 5.0, math.inf]),
        ("length_penalty", [-0.1, 10.5, math.nan, math.inf, "1"]),
        ("n_best", [0, -1, 6, 1.0]),
        ("temperature", [0, 0.0, -1.0, math.nan, math.inf]),
        ("top_k", [-1, 0.5, None]),
        ("top_p", [0, -0.1, 1.01, math.nan]),
        ("no_repeat_ngram", [-1, 1.5]),
        ("repetition_penalty", [0.99, 0, -2, math.nan, math.inf]),
        ("seed", [-1, 2**63, 1.5, "x", True]),
        ("precision", ["fp16", "", None, 16]),
    ],
)
def test_senseless_values_are_refused_by_name(name: str, values: list[Any]) -> None:
    methods = {field: method for method, fields in OWN.items() for field in fields}
    for value in values:
        given_values = {"method": methods.get(name, "greedy"), name: value}
        with pytest.raises(ValueError, match=rf"^decoding\.{name} is ") as refusal:
            DecodingOptions(**given_values)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("method", "name", "value", "reader"),
    [
        ("greedy", "beam_size", 3, "beam"),
        ("sample", "n_best", 2, "beam"),
        ("sample", "length_penalty", 0.5, "beam"),
        ("greedy", "temperature", 0.7, "sample"),
        ("beam", "top_k", 10, "sample"),
        ("beam", "top_p", 0.9, "sample"),
        ("greedy", "seed", 0, "sample"),
    ],
)
def test_a_setting_that_the_method_does_not_read_is_refused(method: str, name: str, value: float, reader: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"decoding.{name} is {value}, which only the method {reader} reads")
    ):
        DecodingOptions(**{"method": method, name: value})  # type: ignore[arg-type]


def test_options_and_flags_need_no_torch() -> None:
    program = "import sys, ctsm.decoding.arguments; sys.exit(len({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60).returncode == 0
