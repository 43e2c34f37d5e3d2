from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch, Examples, Ragged, shuffled_batches, sorted_batches
from ctsm.text.vocabulary import PAD
from ctsm.training.loop import _batches

ROWS = st.lists(st.lists(st.integers(2, 90), max_size=7), min_size=1, max_size=12)


def ints(values: list[int]) -> np.ndarray:
    return np.asarray(values, dtype=np.int64)


@given(ROWS)
def test_ragged_keeps_its_rows(rows: list[list[int]]) -> None:
    ragged = Ragged.from_rows(rows)
    assert len(ragged) == len(rows)
    assert [ragged.row(index) for index in range(len(rows))] == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]


def test_ragged_without_rows() -> None:
    ragged = Ragged.from_rows([])
    assert len(ragged) == 0
    assert ragged.padded(ints([]), 1).shape == (0, 1)


@given(ROWS, st.data(), st.integers(-3, 3), st.integers(1, 5))
def test_padded_equals_a_loop(rows: list[list[int]], data: st.DataObject, fill: int, multiple: int) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9))
    padded = Ragged.from_rows(rows).padded(ints(chosen), fill, multiple)
    width = max([len(rows[index]) for index in chosen] + [1])
    while width % multiple:
        width += 1
    expected = [rows[index] + [fill] * (width - len(rows[index])) for index in chosen]
    assert padded.dtype == np.int64
    assert padded.tolist() == expected
    assert padded.shape == (len(chosen), width)


def make_examples(count: int, seed: int) -> tuple[Examples, list[dict[str, list]]]:
    """Random examples as arrays and as plain lists."""
    random = np.random.default_rng(seed)

    def words(least: int, most: int) -> list[int]:
        return random.integers(7, 50, size=random.integers(least, most + 1)).tolist()

    plain = []
    for _ in range(count):
        context = [6, *words(1, 9)]
        plain.append(
            {
                "context": context,
                "speakers": [6] + [4] * (len(context) - 1),
                "target": [*words(0, 5), 2],
                "cognitive": [[6, *words(0, 4)] for _ in range(4)],
                "reaction": words(0, 4),
            }
        )
    return Examples(
        conversation=np.arange(count),
        emotion=random.integers(0, 32, size=count),
        context=Ragged.from_rows([example["context"] for example in plain]),
        speakers=Ragged.from_rows([example["speakers"] for example in plain]),
        target=Ragged.from_rows([example["target"] for example in plain]),
        cognitive=Ragged.from_rows([row for example in plain for row in example["cognitive"]]),
        reaction=Ragged.from_rows([example["reaction"] for example in plain]),
    ), plain


def pad(rows: list[list[int]]) -> list[list[int]]:
    width = max([len(row) for row in rows] + [1])
    return [row + [PAD] * (width - len(row)) for row in rows]


@pytest.mark.parametrize("rows", [[0], [3, 3, 1], list(range(20)), [19, 0]])
def test_a_batch_equals_a_loop(rows: list[int]) -> None:
    examples, plain = make_examples(20, seed=5)
    chosen = [plain[row] for row in rows]
    batch = examples.batch(ints(rows))
    assert len(batch) == len(rows)
    assert batch.index.tolist() == rows
    assert batch.emotion.tolist() == [int(examples.emotion[row]) for row in rows]
    for name in ("context", "speakers", "target", "reaction"):
        assert getattr(batch, name).tolist() == pad([example[name] for example in chosen]), name
    flat = pad([row for example in chosen for row in example["cognitive"]])
    assert batch.cognitive.tolist() == [flat[4 * index : 4 * index + 4] for index in range(len(rows))]
    width = batch.target.shape[1]
    positions = [row * width + column for row, example in enumerate(chosen) for column in range(len(example["target"]))]
    assert batch.target_positions.tolist() == positions
    assert batch.context_real.tolist() == [
        [column < len(example["context"]) for column in range(batch.context.shape[1])] for example in chosen
    ]
    assert batch.target_real.sum(dim=1).tolist() == [len(example["target"]) for example in chosen]
    for field in dataclasses.fields(Batch):
        value = getattr(batch, field.name)
        assert value is None if field.default is None else value.dtype == torch.int64, field.name


def test_moving_a_batch_keeps_it() -> None:
    batch = make_examples(3, seed=1)[0].batch(ints([2, 0]))
    moved = batch.to("cpu")
    for field in dataclasses.fields(Batch):
        if field.default is None:
            assert getattr(moved, field.name) is None, "nobody asked for it"
        else:
            assert torch.equal(getattr(moved, field.name), getattr(batch, field.name))


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=120).map(ints)
SIZES = {"batch_size": st.integers(1, 9), "pool": st.integers(1, 5), "seed": st.integers(0, 2**40)}


@given(lengths=LENGTHS, **SIZES)
def test_an_epoch_has_every_example_once(lengths: np.ndarray, batch_size: int, pool: int, seed: int) -> None:
    batches = shuffled_batches(lengths, batch_size, seed, 3, pool)
    assert sorted(itertools.chain.from_iterable(batch.tolist() for batch in batches)) == list(range(len(lengths)))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert len(sizes) == -(-len(lengths) // batch_size)
    assert sum(size < batch_size for size in sizes) <= 1, "only one batch may be short"


@given(lengths=LENGTHS, **SIZES)
def test_an_epoch_depends_on_seed_and_number_only(lengths: np.ndarray, batch_size: int, pool: int, seed: int) -> None:
    def epoch(number: int, other_seed: int = seed) -> list[list[int]]:
        np.random.seed(number)  # the global generator must not matter
        return [batch.tolist() for batch in shuffled_batches(lengths, batch_size, other_seed, number, pool)]

    assert epoch(2) == epoch(2)
    if len(lengths) > 20:
        assert epoch(2) != epoch(3)
        assert epoch(2) != epoch(2, seed + 1)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**40))
def test_batches_of_a_pool_do_not_overlap_in_length(lengths: np.ndarray, batch_size: int, seed: int) -> None:
    """With all examples in one pool, the ranges of lengths of two batches meet at most at their ends."""
    batches = shuffled_batches(lengths, batch_size, seed, 0, pool=1000)
    ranges = sorted((int(lengths[batch].min()), int(lengths[batch].max())) for batch in batches)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ranges))


def test_larger_pools_have_more_similar_batches() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, size=3200)
    spreads = [
        np.mean([np.ptp(lengths[batch]) for batch in shuffled_batches(lengths, 16, 1, 0, pool)])
        for pool in (1, 10, 100)
    ]
    assert spreads[0] > 70
    assert spreads[1] < spreads[0] / 4
    assert spreads[2] < spreads[1] / 4


def test_batches_come_in_random_order() -> None:
    lengths = np.arange(400)
    firsts = [int(batch[0]) for batch in shuffled_batches(lengths, 4, seed=1, epoch=0)]
    assert firsts != sorted(firsts)
    assert firsts != sorted(firsts, reverse=True)


@given(LENGTHS, st.integers(1, 50))
def test_sorted_batches_cover_all(lengths: np.ndarray, batch_size: int) -> None:
    batches = list(sorted_batches(lengths, batch_size))
    order = list(itertools.chain.from_iterable(batch.tolist() for batch in batches))
    assert sorted(order) == list(range(len(lengths)))
    assert [int(lengths[row]) for row in order] == sorted(lengths.tolist(), reverse=True)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


@pytest.mark.parametrize("skip", [0, 1, 5, 6, 7, 12, 13, 40])
def test_training_can_start_at_any_step(tiny_config: RunConfig, skip: int) -> None:
    """23 examples in batches of 4 are 6 steps an epoch: starting at step k equals skipping k, over all epochs."""
    examples, _ = make_examples(23, seed=9)
    whole = [batch.index.tolist() for batch in itertools.islice(_batches(examples, tiny_config, 0), skip + 15)]
    started = [batch.index.tolist() for batch in itertools.islice(_batches(examples, tiny_config, skip), 15)]
    assert started == whole[skip:]
    assert sorted(itertools.chain.from_iterable(whole[:6])) == list(range(23))
    assert sorted(itertools.chain.from_iterable(whole[6:12])) == list(range(23))
    assert whole[:6] != whole[6:12]
