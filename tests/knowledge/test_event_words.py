from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.knowledge.event_words import DROPPED, content_words, sentences, stem

FAMILIES = [
    "bark barks barked barking",
    "study studies studied studying",
    "try tries tried trying",
    "die dies died dying",
    "hope hopes hoped hoping",
    "stop stops stopped stopping",
    "miss misses missed missing",
    "kiss kisses kissed kissing",
    "house houses",
    "glass glasses",
    "bus buses",
    "family families",
    "reply replies replied replying",
    "morning mornings",
    "go goes went gone going",
    "see sees saw seen seeing",
    "child children kid kids",
    "mother mom moms",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_inflections_share_a_form(family):
    assert len({stem(word) for word in family.split()}) == 1


def test_different_words_keep_different_forms():
    words = "bark study try die hope stop miss kiss house glass bus family reply morning go see child mother bring ring"
    assert len({stem(word) for word in words.split()}) == len(words.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PersonX loses PersonX's dog", ["los", "dog"]),
        ("I lost my dogs!", ["los", "dog"]),
        ("PersonX gives PersonY ___ back", ["giv", "back"]),
        ("person x sees person y's cat", ["see", "cat"]),
        ("I want a different accident", ["want", "different", "accident"]),
        ("PersonX ca n't sleep", ["not_sleep"]),
        ("I couldn't really sleep", ["not_sleep"]),
        ("i cant sleep", ["not_sleep"]),
        ("We could not sleep", ["not_sleep"]),
        ("he doesn\u2019t swim, she never runs", ["not_swim", "not_run"]),
        ("my sister's cats", ["sister", "cat"]),
        ("Oh yes, it was so", []),
        ("😀 \x00 123", []),
        ("", []),
    ],
)
def test_content_words(text, words):
    assert content_words(text) == words


@given(st.text())
def test_any_text_gives_plain_forms(text):
    for word in content_words(text):
        assert word and set(word.removeprefix("not_")) <= set(string.ascii_lowercase)
        assert word not in ("i", "the", "personx")


@given(st.text(alphabet=string.ascii_letters + " ", max_size=40))
def test_case_and_dropped_words_make_no_difference(text):
    assert content_words(text.upper()) == content_words(text.lower())
    assert content_words(" ".join(sorted(DROPPED))) == []


def test_sentences():
    assert [piece.strip() for piece in sentences("One thing. Two things!? Three\nfour...")] == [
        "One thing",
        "Two things",
        "Three",
        "four",
    ]
    assert sentences(" ... ") == []
