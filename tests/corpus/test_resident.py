"""Batches gathered on the device: the numpy path's, but for padding; few shapes; no waiting for the device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ctsm.corpus.batches import Batch, Examples, Groups, Ragged, shuffled_batches
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.resident import ResidentExamples, rounded

PAD = 1
EXTRAS = {"concepts", "cognition", "emotion_words", "feedback"}
WORDS = st.lists(st.integers(2, 90), max_size=40)
PHRASES = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=2), max_size=12)  # few different ones


@st.composite
def splits(draw: st.DrawFn) -> tuple[Examples, np.ndarray]:
    """Random examples with extras of each kind, and rows of them, repeats allowed."""
    count = draw(st.integers(1, 5))

    def rows(one: st.SearchStrategy[Any], times: int = 1) -> list[Any]:
        return draw(st.lists(one, min_size=count * times, max_size=count * times))

    utterances = rows(st.lists(WORDS, min_size=1, max_size=10))
    phrases = rows(PHRASES)
    examples = Examples(
        conversation=np.arange(count),
        emotion=np.array(rows(st.integers(0, 31))),
        context=Ragged.from_rows(rows(WORDS)),
        speakers=Ragged.from_rows(rows(WORDS)),
        target=Ragged.from_rows([[*words, 2] for words in rows(WORDS)]),
        cognitive=Ragged.from_rows(rows(WORDS, times=4)),
        reaction=Ragged.from_rows(rows(st.just([]) if draw(st.booleans()) else WORDS)),
        extras={
            "concepts": Ragged.from_rows(rows(WORDS)),
            "utterances": Groups.from_groups(utterances),
            "reactions": Groups.from_groups([[row[:2] for row in group] for group in utterances]),
            "phrases": Groups.from_groups(phrases),
            "phrase_owner": Ragged.from_rows([[0] * len(group) for group in phrases]),
        },
    )
    return examples, np.array(draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6)))


def assert_equal_but_for_padding(found: Batch, expected: Batch) -> None:
    """Each field begins with the expected one; everything beyond is what fills it up."""
    for field in dataclasses.fields(Batch):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if theirs is None:
            assert ours is None, field.name
            continue
        assert ours.dtype == torch.int64, field.name
        if field.name == "target_positions":
            continue
        fill = -1 if field.name.startswith("phrase_") or field.name == "utterance_row" else PAD
        filled = torch.full_like(ours, fill)
        filled[tuple(slice(size) for size in theirs.shape)] = theirs
        assert torch.equal(ours, filled), field.name
    words, real = found.target.flatten()[found.target_positions], len(expected.target_positions)
    assert words[:real].tolist() == expected.target.flatten()[expected.target_positions].tolist()
    rows = (batch.target_positions // batch.target.shape[1] for batch in (found, expected))
    assert next(rows)[:real].tolist() == next(rows).tolist()
    assert set(words[real:].tolist()) <= {PAD}, "what fills the targets up is no word"


@settings(max_examples=60)
@given(splits())
def test_a_batch_is_the_numpy_paths_but_for_padding(drawn: tuple[Examples, np.ndarray]) -> None:
    examples, rows = drawn
    assert_equal_but_for_padding(ResidentExamples(examples, "cpu").batch(rows), examples.batch(rows))


def test_batches_of_prepared_data_too(prepared_all: Path) -> None:
    examples = PreparedData(prepared_all).examples("train", EXTRAS)
    resident = ResidentExamples(examples, "cpu")
    for rows in shuffled_batches(examples.context.lengths, 5, seed=1, epoch=0):
        assert_equal_but_for_padding(resident.batch(rows), examples.batch(rows))


@given(st.integers(0, 5000), st.sampled_from([1, 8, 32, 256]))
def test_sizes_are_rounded_up_to_a_power_of_two_times_the_least(size: int, least: int) -> None:
    found = rounded(size, least)
    assert found in {least * 2**power for power in range(14)}
    assert found >= size
    assert found == least or found < 2 * size


def shapes(batch: Batch) -> tuple[torch.Size, ...]:
    tensors = (getattr(batch, field.name) for field in dataclasses.fields(batch))
    return tuple(tensor.shape for tensor in tensors if tensor is not None)


def test_an_epoch_has_few_shapes() -> None:
    """Lengths like those of real dialogues: nearly every batch has a shape of its own, and rounded few have."""
    random = np.random.default_rng(3)
    count, size = 6400, 16

    def rows(mean: float, number: int = count) -> Ragged:
        lengths = np.clip(random.lognormal(np.log(mean), 0.6, number), 1, 300).astype(np.int64)
        return Ragged(random.integers(7, 90, lengths.sum()), np.concatenate([[0], lengths.cumsum()]))

    context = rows(30)
    examples = Examples(
        np.arange(count), np.zeros(count, dtype=int), context, context, rows(14), rows(12, 4 * count), rows(6)
    )
    resident = ResidentExamples(examples, "cpu")
    batches = shuffled_batches(context.lengths, size, seed=1, epoch=0)
    exact = {shapes(examples.batch(batch)) for batch in batches}
    few = {shapes(resident.batch(batch)) for batch in batches}
    assert len(exact) > 0.9 * len(batches)
    # From 32 to 512: five widths of contexts. Replies and inferences of a batch of 16 are 32 to 256 long, four widths,
    # and packed replies fill 256, 512 or 1,024 positions; a batch's longest reply and its replies' sum go together.
    assert len(few) <= 5 * 4 * 3 * 3
    assert len(few) < len(batches) / 5


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a value, and results whose shape depends on values."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_):
            waits = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        else:
            waits = not {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}.isdisjoint(function.tags)
        if waits:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("wait", [Tensor.item, Tensor.nonzero, Tensor.unique, lambda x: x[x > 0], lambda x: bool(x[0])])
def test_waiting_is_noticed(wait: Any) -> None:
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        wait(torch.ones(1))


def test_making_a_batch_waits_for_nothing(prepared_all: Path) -> None:
    examples = PreparedData(prepared_all).examples("train", EXTRAS)
    resident = ResidentExamples(examples, "cpu")
    with NoWaiting():
        resident.batch(np.array([3, 0, 7]))
