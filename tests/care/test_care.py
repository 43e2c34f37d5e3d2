"""The care filter: what it finds and leaves alone, in any spelling, and in time linear in the text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm import care
from ctsm.care import NOTICE, notice_for, notice_for_conversation

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "care.md"


def messages(name: str) -> list[str]:
    return (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def wrong(name: str, expected: str | None) -> list[str]:
    return [message for message in messages(name) if notice_for(message) != expected]


def test_messages_of_distress_and_danger_get_the_notice() -> None:
    missed = wrong("must_trigger", NOTICE)
    assert len(missed) <= 5, missed


def test_near_misses_do_not() -> None:
    blocked = wrong("near_misses", None)
    assert len(blocked) <= 5, blocked


FROM_THE_REVIEW = slice(150, None)
"""The last portion of the tuning sets: what a review found wrong, and its like."""


@pytest.mark.parametrize("message", messages("tuning_triggers")[FROM_THE_REVIEW])
def test_what_was_found_missing_gets_the_notice(message: str) -> None:
    assert notice_for(message) == NOTICE


@pytest.mark.parametrize("message", messages("tuning_near_misses")[FROM_THE_REVIEW])
def test_what_was_found_blocked_wrongly_passes(message: str) -> None:
    assert notice_for(message) is None


def test_the_page_gives_the_numbers_as_they_are_and_lists_what_is_missed() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## What was measured") : text.index("## How to change it")]
    for name, expected in (
        ("must_trigger", NOTICE),
        ("near_misses", None),
        ("tuning_triggers", NOTICE),
        ("tuning_near_misses", None),
    ):
        count, failures = len(messages(name)), len(wrong(name, expected))
        triggered = count - failures if expected else failures
        assert f"| `{name}.txt` | {triggered} of {count} |" in section
    for message in [*wrong("must_trigger", NOTICE), *wrong("near_misses", None)]:
        assert message in section


def test_the_page_quotes_the_notice() -> None:
    quoted = re.findall(r"^> (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert " ".join(quoted) == NOTICE


def test_the_wording_is_kind_short_and_of_no_country() -> None:
    assert len(NOTICE.split()) <= 80
    assert not re.search(r"\d", NOTICE)
    assert "emergency number" in NOTICE


@pytest.mark.parametrize(
    "text",
    [
        "i dont want to live anymore",
        "I DON'T WANT TO LIVE ANYMORE!!!",
        "I don\u2019t want to live anymore",
        "I don`t  want\tto\nlive  anymore.",
        "i dooooont want to liiiiive anymore",
        "I don't want to \u200blive any\u00admore",
        "\uff29 \uff57\uff41\uff4e\uff54 \uff54\uff4f \uff44\uff49\uff45",  # full-width letters
        "We had pizza. My sister laughed. And now I want to die. Bye.",
        "I want, really, to kill my-self",
        "i want to k1ll mys3lf",
        "i really want to d1e",
    ],
)
def test_spelling_does_not_matter(text: str) -> None:
    assert notice_for(text) == NOTICE


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00",
        "...",
        "\ud83d",
        "I do not want to. Die Hard is on tonight.",
        "I skill myself up",
        "my wants to diet",
        "I have 1 k1te, 3 dogs and a b0at from 2013.",
    ],
)
def test_words_are_whole_and_sentences_apart(text: str) -> None:
    assert notice_for(text) is None


def test_what_is_harmless_does_not_hide_what_is_not() -> None:
    assert notice_for("This job is killing me and I want to kill myself.") == NOTICE
    assert notice_for("I am not suicidal, but I cut myself every night.") == NOTICE
    assert notice_for("We saw the Suicide Squad movie, then I took a whole bottle of pills.") == NOTICE
    assert notice_for("I have a headache, I will kill myself, I want the pain to stop.") == NOTICE
    assert notice_for("I will cancel my contract, cut my arms and end it.") == NOTICE
    assert notice_for("I took all my pills to die, not as prescribed.") == NOTICE
    assert notice_for("I took all my pills, and not as prescribed.") == NOTICE


def test_every_turn_of_the_speaker_counts_and_none_of_the_listener() -> None:
    assert notice_for_conversation(["I want to die.", "Why?", "Because."]) == NOTICE
    assert notice_for_conversation(["Hello.", "Hi!", "I want to die."]) == NOTICE
    assert notice_for_conversation(["Hello.", "I want to die.", "You are a strange machine."]) is None
    assert notice_for_conversation([]) is None


def test_no_pattern_repeats_anything_without_bound() -> None:
    """What could take more than linear time: *, + and {n,} (a possessive + after a bounded repetition is none)."""
    harmless, dangerous = care._searches()
    for pattern in [*(pattern.pattern for pattern in dangerous), harmless.pattern]:
        assert "*" not in pattern
        assert not re.search(r"(?<!\})\+", pattern)
        assert not re.search(r"\{\d+,\}", pattern)


def test_every_group_of_words_in_between_stands_where_it_can_match() -> None:
    """A gap brings its own spaces: one more in front of it would never match."""
    assert not [
        pattern for pattern in care.HARMLESS + care.DANGEROUS if re.search(r" <(\d|very|more|end|sport)>", pattern)
    ]


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "a ",
        "i want to ",
        "not really just even want to ",
        "my self , ",
        "k",
        "wish my the a . ",
        "'",
        "I dont ",
        "my tooth a . ",
        "our contract a ",
        "could not want to ",
        "i took all a ",
        "k1",
        "\u200b",
    ],
)
def test_a_hundred_thousand_characters_are_searched_to_their_end(unit: str) -> None:
    hostile = unit * (100_000 // len(unit))
    assert notice_for(hostile) is None
    assert notice_for(hostile + " . i want to die") == NOTICE


@given(st.text(max_size=200))
def test_any_text_is_accepted(text: str) -> None:
    assert notice_for(text) in (None, NOTICE)
    assert notice_for(f"{text}. I am going to kill myself tonight.") == NOTICE
