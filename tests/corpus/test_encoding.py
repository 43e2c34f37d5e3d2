from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.corpus.encoding import encode_context, encode_inferences, encode_reply
from ctsm.text.vocabulary import CLS, EOS, SYS, UNK, USR, Vocabulary

VOCABULARY = Vocabulary.build([["the", "dog", "ran", "home", "happy", "go", "find", "him", "to", "none"]])
SIZE = len(VOCABULARY)


def ids(text: str) -> list[int]:
    return [VOCABULARY.words.index(word) for word in text.split()]


def test_a_context_is_cls_and_all_turns_without_separators() -> None:
    encoded = encode_context(VOCABULARY, [["the", "dog", "ran"], ["home"], ["the", "dog"]])
    assert encoded.ids == [CLS, *ids("the dog ran home the dog")]
    assert encoded.speakers == [CLS, USR, USR, USR, SYS, USR, USR]
    assert encoded.oov == []


def test_unknown_words_get_ids_of_their_own() -> None:
    turns = [["the", "wombat", "ran"], ["a", "wombat"], ["wombat", "home"]]
    encoded = encode_context(VOCABULARY, turns)
    assert encoded.oov == ["wombat", "a"]
    the, ran, home = ids("the ran home")
    assert encoded.ids == [CLS, the, SIZE, ran, SIZE + 1, SIZE, SIZE, home]


def test_a_reply_copies_only_what_its_context_has() -> None:
    oov = ["wombat", "a"]
    assert encode_reply(VOCABULARY, ["a", "wombat", "snores", "home"], oov) == [SIZE + 1, SIZE, UNK, *ids("home"), EOS]
    assert encode_reply(VOCABULARY, [], oov) == [EOS]
    assert oov == ["wombat", "a"]


def test_an_empty_context_is_cls() -> None:
    encoded = encode_context(VOCABULARY, [])
    assert (encoded.ids, encoded.speakers, encoded.oov) == ([CLS], [CLS], [])


WORDS = st.sampled_from(["the", "dog", "ran", "home", "wombat", "zebra", "yak"])


@given(st.lists(st.lists(WORDS, max_size=5), max_size=6), st.lists(WORDS, max_size=6))
def test_ids_lead_back_to_the_words(turns: list[list[str]], reply: list[str]) -> None:
    encoded = encode_context(VOCABULARY, turns)
    words = [word for turn in turns for word in turn]
    assert VOCABULARY.words_of(encoded.ids, encoded.oov) == ["CLS", *words]
    expected = [("USR", "SYS")[number % 2] for number, turn in enumerate(turns) for _ in turn]
    assert VOCABULARY.words_of(encoded.speakers, []) == ["CLS", *expected]
    target = VOCABULARY.words_of(encode_reply(VOCABULARY, reply, encoded.oov), encoded.oov)
    assert target == [word if word in VOCABULARY or word in words else "UNK" for word in reply] + ["EOS"]


def test_inferences_lose_empty_and_unknown_words() -> None:
    inferences = (
        ("to go home", "go and find him"),
        (),
        ("none", "to none"),
        ("To find the dog", "the dog"),
        ("happy", "very happy", "wombat"),
    )
    cognitive, reaction = encode_inferences(VOCABULARY, inferences, lambda phrase: phrase.lower().split())
    assert cognitive == [
        [CLS, *ids("go home go find him")],
        [CLS],
        [CLS],
        [CLS, *ids("find the dog the dog")],
    ]
    assert reaction == ids("happy happy")


@pytest.mark.parametrize("relation", range(5))
def test_only_the_first_four_relations_have_cls(relation: int) -> None:
    inferences = tuple(("dog",) if place == relation else () for place in range(5))
    cognitive, reaction = encode_inferences(VOCABULARY, inferences, str.split)
    assert [row[0] for row in cognitive] == [CLS] * 4
    assert [row[1:] for row in cognitive] == [ids("dog") if place == relation else [] for place in range(4)]
    assert reaction == (ids("dog") if relation == 4 else [])
