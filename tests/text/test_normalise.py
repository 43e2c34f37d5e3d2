from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.text.normalise import is_blank, normalise

EXPANSIONS = {
    "it's": "it is",
    "don't": "do not",
    "doesn't": "does not",
    "didn't": "did not",
    "you'd": "you would",
    "you're": "you are",
    "you'll": "you will",
    "i'm": "i am",
    "they're": "they are",
    "that's": "that is",
    "what's": "what is",
    "couldn't": "could not",
    "i've": "i have",
    "we've": "we have",
    "can't": "cannot",
    "i'd": "i would",
    "aren't": "are not",
    "isn't": "is not",
    "wasn't": "was not",
    "weren't": "were not",
    "won't": "will not",
    "there's": "there is",
    "there're": "there are",
}


@pytest.mark.parametrize(("short", "long"), EXPANSIONS.items())
def test_each_contraction_is_written_out_in_any_case(short: str, long: str) -> None:
    assert normalise(f"Well, {short.capitalize()} so") == f"well, {long} so"
    assert normalise(short.upper()) == long


@pytest.mark.parametrize("short", ["wouldn't", "shouldn't", "haven't", "hasn't", "he's", "she's", "let's", "we're"])
def test_contractions_outside_the_table_stay(short: str) -> None:
    assert normalise(short) == short


def test_replacement_is_on_substrings() -> None:
    assert normalise("the bandit's hat, thati'd") == "the bandit is hat, thati would"


def test_typographic_apostrophes_inside_words_count_as_apostrophes() -> None:
    assert normalise("I\u2019m sure you\u02bcll win") == "i am sure you will win"
    assert normalise("she said \u2018no\u2019 twice") == "she said \u2018no\u2019 twice"


def test_control_characters_become_spaces_and_format_characters_vanish() -> None:
    assert normalise("a\x00b\x07c") == "a b c"
    assert normalise("ze\u200bro\ufeff wi\u00addth") == "zero width"
    assert normalise("half \ud800 pair") == "half   pair"
    assert normalise("do\u200bn't") == "do not"


@given(st.text(alphabet=st.characters()))
def test_nothing_invisible_or_unencodable_is_left(text: str) -> None:
    result = normalise(text)
    assert not {unicodedata.category(character) for character in result} & {"Cc", "Cf", "Cs"}
    result.encode("utf-8")


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzABC .,!?\U0001f600"))
def test_text_without_apostrophes_is_only_lowered(text: str) -> None:
    assert normalise(text) == text.lower()


@pytest.mark.parametrize("text", ["", " \t\n", "\x00\x01", "\u200b\u200d", "\ud800", "\u3000"])
def test_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", [".", "a", "\U0001f600", "\x00x"])
def test_not_blank(text: str) -> None:
    assert not is_blank(text)
