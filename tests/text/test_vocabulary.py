from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.text.vocabulary import CLS, EOS, PAD, SOS, SPECIALS, SYS, UNK, USR, Vocabulary

WORDS = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1)


def test_specials_have_the_ids_of_the_lineage() -> None:
    assert list(range(7)) == [UNK, PAD, EOS, SOS, USR, SYS, CLS]
    vocabulary = Vocabulary.build([])
    assert vocabulary.words == ("UNK", "PAD", "EOS", "SOS", "USR", "SYS", "CLS") == SPECIALS
    assert len(vocabulary) == 7


def test_build_keeps_the_order_of_first_appearance() -> None:
    vocabulary = Vocabulary.build([["b", "a"], ["a", "c", "b"]], always=["sad", "a", "proud"])
    assert vocabulary.words[7:] == ("b", "a", "c", "sad", "proud")
    assert "c" in vocabulary
    assert "d" not in vocabulary
    assert vocabulary.id_of("c") == 9
    assert vocabulary.id_of("d") == UNK
    assert vocabulary.ids(["a", "x", "b"]) == [8, 0, 7]


def test_one_pass_iterators_are_enough() -> None:
    assert Vocabulary.build(iter(word) for word in ["xy", "yz"]).words[7:] == ("x", "y", "z")


def test_it_is_immutable() -> None:
    vocabulary = Vocabulary.build([["a"]])
    with pytest.raises(AttributeError):
        vocabulary.words = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        vocabulary.extra = 1  # type: ignore[attr-defined]


@given(st.lists(st.lists(WORDS)))
def test_save_and_load_are_inverse(tmp_path_factory: pytest.TempPathFactory, token_lists: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    vocabulary = Vocabulary.build(token_lists)
    vocabulary.save(path)
    again = Vocabulary.load(path)
    assert again == vocabulary
    assert again.words == vocabulary.words
    assert again.fingerprint() == vocabulary.fingerprint()
    assert hash(again) == hash(vocabulary)


def test_fingerprint_depends_on_words_and_order() -> None:
    first = Vocabulary.build([["a", "b"]])
    assert first.fingerprint() != Vocabulary.build([["b", "a"]]).fingerprint()
    assert first.fingerprint() != Vocabulary.build([["a"]]).fingerprint()
    content = b"UNK\nPAD\nEOS\nSOS\nUSR\nSYS\nCLS\na\nb"
    assert first.fingerprint() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "cannot read the vocabulary"),
        ("[1, 2", "cannot read the vocabulary"),
        ("{}", "not a JSON list of words"),
        (json.dumps([*SPECIALS, 3]), "not a JSON list of words"),
        (json.dumps(["a", "b"]), "the first words must be UNK PAD"),
        (json.dumps(["PAD", "UNK", *SPECIALS[2:]]), "the first words must be UNK PAD"),
        (json.dumps([]), "the first words must be UNK PAD"),
        (json.dumps([*SPECIALS, "twin", "b", "twin"]), "'twin' is in it twice"),
        (json.dumps([*SPECIALS, "CLS"]), "'CLS' is in it twice"),
        (json.dumps([*SPECIALS, ""]), "word 7 is ''"),
        (json.dumps([*SPECIALS, "a\nb"]), "line break"),
        (json.dumps([*SPECIALS, "\ud800"]), "not valid Unicode"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CtsmError, match=r"vocabulary\.json: ") as caught:
        Vocabulary.load(path)
    assert expected in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CtsmError, match="no such file"):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_extended_ids_number_unknown_words_by_example() -> None:
    vocabulary = Vocabulary.build([["my", "dog", "barks"]])
    oov: list[str] = []
    assert vocabulary.extended_ids(["my", "rex", "barks", "rex"], oov) == [7, 10, 9, 10]
    assert vocabulary.extended_ids(["fido", "rex", "dog"], oov) == [11, 10, 8]
    assert oov == ["rex", "fido"]
    assert vocabulary.target_ids(["rex", "dog", "felix"], oov) == [10, 8, UNK]
    assert oov == ["rex", "fido"]
    assert vocabulary.words_of(np.array([10, 8, 11, 0]), oov) == ["rex", "dog", "fido", "UNK"]


@pytest.mark.parametrize("index", [-1, 8, 100])
def test_words_of_refuses_ids_beyond_the_extended_vocabulary(index: int) -> None:
    with pytest.raises(IndexError, match=str(index)):
        Vocabulary.build([["a"]]).words_of([index], [])


@given(
    st.lists(st.sampled_from("abcdefgh")), st.lists(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh"))
)
def test_extended_ids_agree_with_the_definition(context: list[str], target: list[str], known: set[str]) -> None:
    vocabulary = Vocabulary.build([sorted(known)])
    oov: list[str] = []
    ids = vocabulary.extended_ids(context, oov)
    assert oov == list(dict.fromkeys(word for word in context if word not in known))
    assert vocabulary.words_of(ids, oov) == context
    for word, index in zip(target, vocabulary.target_ids(target, oov), strict=True):
        if word in known:
            assert vocabulary.words[index] == word
        elif word in context:
            assert oov[index - len(vocabulary)] == word
        else:
            assert index == UNK
