"""Small studies with verdicts written as letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from ctsm.judging.study import STUDY_SCHEMA, Judgement, Pair, Study, Trial, Verdict

LETTERS: dict[str, Verdict] = {"W": "win", "T": "tie", "L": "lose"}
Table = Mapping[str, Mapping[str, Sequence[str]]]
Judged = Callable[..., tuple[Study, list[Judgement]]]


def _judged(table: Table, catch: Mapping[str, Sequence[str]] | None = None) -> tuple[Study, list[Judgement]]:
    """Build a study: pair -> aspect -> for each item a letter of each annotator, "." for one who has not judged it.

    `catch` has the same for the catch trials, which belong to no pair.
    """
    first = next(iter(table.values()))
    aspects = tuple(first)
    words = first[aspects[0]]
    annotators = tuple(str(number + 1) for number in range(len(words[0])))
    catch = catch or {}
    catches = len(next(iter(catch.values()), ()))
    trials, judgements = list[Trial](), list[Judgement]()
    for place, annotator in enumerate(annotators):
        wanted = [(pair, number, False) for pair in table for number in range(len(words))]
        wanted += [("", number, True) for number in range(catches)]
        for position, (pair, number, is_catch) in enumerate(wanted):
            trial = Trial(
                id=f"t{annotator}-{position}",
                annotator=annotator,
                place=position,
                pair=pair,
                item=f"c{number}#1",
                catch=is_catch,
                left="a" if (place + number) % 2 else "b",
                context=(f"I lost my keys on day {number}.",),
                reply_a=f"Oh no, did you find them on day {number}?",
                reply_b=f"What a lovely cake, number {number}!",
            )
            trials.append(trial)
            for aspect, letters in (catch if is_catch else table[pair]).items():
                if (letter := letters[number][place]) != ".":
                    judgements.append(
                        Judgement(
                            trial=trial.id,
                            annotator=annotator,
                            pair=pair,
                            item=trial.item,
                            catch=is_catch,
                            aspect=aspect,
                            verdict=LETTERS[letter],
                            judged=f"2024-05-01T12:00:{position:02d}+00:00",
                        )
                    )
    study = Study(
        schema=STUDY_SCHEMA,
        created="2024-05-01T10:00:00+00:00",
        seed=1,
        aspects=aspects,
        annotators=annotators,
        pairs=tuple(Pair(name=name, a=f"a-of-{name}", b=f"b-of-{name}") for name in table),
        items=tuple(f"c{number}#1" for number in range(len(words))),
        guidelines="Read the context first.",
        trials=tuple(trials),
    )
    return study, judgements


@pytest.fixture(scope="session")
def judged() -> Judged:
    """Builds (study, judgements) from letters; see `_judged`."""
    return _judged
