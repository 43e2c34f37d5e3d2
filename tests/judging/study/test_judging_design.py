"""The design of a study: counted out by hand from its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.evaluation.replies import Reply
from ctsm.judging.design import DesignOptions, balanced_sides, design_study
from ctsm.judging.pairs import PairReplies, read_pairs
from ctsm.judging.study import Pair, Study


def system_replies(name: str, count: int, reference: bool = True) -> dict[str, Reply]:
    return {
        f"i{number}": Reply(
            id=f"i{number}",
            conversation_id=f"c{number // 3}",
            context=(f"day {number}",),
            reference=f"reference {number}" if reference else None,
            reply=f"reply {number} of {name}",
            reply_tokens=(),
            emotion=None,
            predicted=None,
            system=name,
        )
        for number in range(count)
    }


def design(count: int, items: int, annotators: int, pairs: int, seed: int, reference: bool = True) -> Study:
    read = [
        PairReplies(
            Pair(name=f"p{number}", a=f"a{number}", b=f"b{number}"),
            system_replies(f"a{number}", count, reference),
            system_replies(f"b{number}", count, reference),
        )
        for number in range(pairs)
    ]
    options = DesignOptions(aspects=("empathy",), annotators=annotators, items=items, seed=seed, guidelines="Read.")
    return design_study(read, options, "2026-01-01T00:00:00+00:00")


designs = st.integers(2, 40).flatmap(
    lambda items: st.tuples(
        st.integers(items, items + 20), st.just(items), st.integers(1, 6), st.integers(1, 3), st.integers(0, 10**6)
    )
)


@given(designs)
@settings(max_examples=60)
def test_everyone_judges_every_item_of_every_pair_once(shape: tuple[int, int, int, int, int]) -> None:
    _, items, annotators, pairs, _ = shape
    study = design(*shape)
    real = Counter((trial.annotator, trial.pair, trial.item) for trial in study.trials if not trial.catch)
    names = [str(number + 1) for number in range(annotators)]
    assert len(set(study.items)) == items
    assert real == Counter(product(names, [f"p{number}" for number in range(pairs)], study.items))
    for name in names:
        assert sorted(t.place for t in study.trials if t.annotator == name) == list(
            range(len(study.trials) // annotators)
        )
    assert len({trial.id for trial in study.trials}) == len(study.trials)


@given(designs)
@settings(max_examples=60)
def test_sides_are_balanced(shape: tuple[int, int, int, int, int]) -> None:
    """Per annotator and pair (catch trials: pair ""), and per item of a pair over the annotators."""
    _, _, annotators, _, _ = shape
    study = design(*shape)
    for annotator, pair in {(trial.annotator, trial.pair) for trial in study.trials}:
        sides = Counter(t.left for t in study.trials if t.annotator == annotator and t.pair == pair)
        assert abs(sides["a"] - sides["b"]) <= 1
    for pair, item in {(trial.pair, trial.item) for trial in study.trials}:
        sides = Counter(t.left for t in study.trials if t.pair == pair and t.item == item)
        assert sides.total() == annotators
        assert abs(sides["a"] - sides["b"]) <= 1


@given(designs)
@settings(max_examples=60)
def test_catch_trials(shape: tuple[int, int, int, int, int]) -> None:
    """About one for ten real trials; the item's reference against what answers a context of another conversation."""
    count, items, annotators, pairs, _ = shape
    study = design(*shape)
    caught = [trial for trial in study.trials if trial.catch]
    possible = count if count > 3 else 0  # three contexts are one conversation
    assert len(caught) == annotators * min(possible, max(2, round(items * pairs / 10)))
    for trial in caught:
        number = int(trial.item.removeprefix("i"))
        _, answered, _, system = trial.reply_b.split()
        assert trial.pair == ""
        assert trial.context == (f"day {number}",)
        assert trial.reply_a == f"reference {number}"
        assert int(answered) // 3 != number // 3
        assert system in {f"{side}{pair}" for side in "ab" for pair in range(pairs)}
    outside = count - items
    for annotator in study.annotators:
        used = [trial.item for trial in caught if trial.annotator == annotator]
        assert len(set(used)) == len(used)
        assert sum(item not in study.items for item in used) == min(outside, len(used))


def test_without_references_there_are_no_catch_trials() -> None:
    assert not any(trial.catch for trial in design(20, 10, 2, 1, 1, reference=False).trials)


def test_the_seed_decides_everything() -> None:
    assert design(50, 20, 3, 2, 4) == design(50, 20, 3, 2, 4)
    assert design(50, 20, 3, 2, 4).items != design(50, 20, 3, 2, 5).items
    assert design(50, 20, 3, 2, 4).items == design(50, 20, 5, 3, 4).items


def test_replies_belong_to_their_item_and_system() -> None:
    for trial in design(30, 20, 3, 2, 9).trials:
        if not trial.catch:
            number, pair = trial.item.removeprefix("i"), trial.pair.removeprefix("p")
            assert trial.reply_a == f"reply {number} of a{pair}"
            assert trial.reply_b == f"reply {number} of b{pair}"


def test_sides_of_annotators_are_not_tied_to_each_other() -> None:
    """On a chessboard the first and the third of four annotators would always agree."""
    agreed = Counter[int]()
    for seed in range(40):
        left = balanced_sides(4, 20, Random(seed))
        for one, other in ((0, 1), (0, 2), (0, 3)):
            agreed[other] += sum(a == b for a, b in zip(left[one], left[other], strict=True))
    # Three others, of whom one must agree for every item on average: 800 items, each with probability 1/3.
    for other in (1, 2, 3):
        assert 800 / 3 - 80 < agreed[other] < 800 / 3 + 80


def test_a_catch_trials_reply_answers_another_emotion_with_words_of_its_own(replies: Callable[..., Path]) -> None:
    def plain(lines: list[dict[str, object]]) -> None:
        for number, line in enumerate(lines):
            line["reply"] = "I see." if number % 2 else f"I see, you repaired the {number}th boat on the lake."

    files = [replies(name, 60, change=plain) for name in ("north", "south")]
    pairs = read_pairs([f"poles={files[0]},{files[1]}"])
    options = DesignOptions(aspects=("fluency",), annotators=1, items=40, seed=1, guidelines="Read.")
    caught = [trial for trial in design_study(pairs, options, "").trials if trial.catch]
    assert len(caught) == 4
    for trial in caught:
        answered = int(trial.reply_b.split()[5].removesuffix("th"))
        assert answered // 2 % 3 != int(trial.item.partition("#")[2]) // 2 % 3


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_a_database_cannot_hold_is_replaced(text: str, replies: Callable[..., Path]) -> None:
    files = [replies(name, 8, change=lambda lines: [line.update(reply=text) for line in lines]) for name in ("n", "s")]
    options = DesignOptions(aspects=("fluency",), annotators=1, items=2, seed=1, guidelines="Read.")
    study = design_study(read_pairs([f"poles={files[0]},{files[1]}"]), options, "")
    shown = {trial.reply_a for trial in study.trials if not trial.catch}
    assert shown in ({"a\ufffdb"}, {"a?b"})
