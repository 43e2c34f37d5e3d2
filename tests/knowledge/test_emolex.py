from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.knowledge.emolex import EMOLEX_EMOTIONS, SENTIMENTS, read_emolex
from ctsm.knowledge.function_words import FUNCTION_WORDS

WORDS = st.text(alphabet="bcdfghz' é-", min_size=3, max_size=8).filter(lambda word: word == word.strip())
FLAGS = st.dictionaries(st.sampled_from(EMOLEX_EMOTIONS + SENTIMENTS), st.sampled_from("01"), min_size=1)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@given(lexicon=st.dictionaries(WORDS, FLAGS, min_size=1, max_size=9))
def test_a_word_with_one_of_the_eight_emotions_counts(
    tmp_path_factory: pytest.TempPathFactory, lexicon: dict[str, dict[str, str]]
) -> None:
    lines = [f"{word}\t{emotion}\t{flag}" for word, flags in lexicon.items() for emotion, flag in flags.items()]
    path = write(tmp_path_factory.mktemp("emolex") / "emolex.txt", "\n".join(["sunny\tjoy\t1", *lines]) + "\n")
    expected = {"sunny"}
    for word, flags in lexicon.items():
        for emotion in "anger anticipation disgust fear joy sadness surprise trust".split():
            if flags.get(emotion) == "1":
                expected.add(word)
    assert read_emolex(path) == expected


def test_sentiment_alone_is_no_emotion_and_function_words_carry_none(tmp_path: Path) -> None:
    text = "job\tpositive\t1\njob\tjoy\t0\nugly\tdisgust\t1\nwell\tjoy\t1\n\nugly\tdisgust\t1\r\n"
    assert "well" in FUNCTION_WORDS
    assert read_emolex(write(tmp_path / "e.txt", text)) == {"ugly"}
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert read_emolex(tmp_path / "e.txt.gz") == {"ugly"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("glad\tjoy\n", r"e\.txt, line 1: 2 tab-separated fields, expected word, emotion, 0 or 1; give .*"),
        ("glad\tjoy\t1\tx\n", r"line 1: 4 tab-separated fields, .*"),
        ("glad\tjoy\t1\n\t joy\t1\n", r"line 2: the word is empty; remove the line\."),
        ("glad\thappiness\t1\n", r"line 1: 'happiness' is none of anger, .*, positive; mend the line .*"),
        ("glad\tjoy\t2\n", r"line 1: '2' is neither 0 nor 1; mend .*"),
        ("glad\tjoy\t1.0\n", r"line 1: '1\.0' is neither 0 nor 1; mend .*"),
        ("glad\tjoy\t1\nglad\tjoy\t0\n", r"line 2: 'glad' comes a second time with joy 0; remove one of the lines\."),
        ("glad\tjoy\t0\n", r"e\.txt: no word of the emotion lexicon carries an emotion; download .*"),
        ("", r"e\.txt: no word of the emotion lexicon carries an emotion; download .*"),
    ],
)
def test_a_broken_lexicon_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CtsmError, match=message + r"\Z"):
        read_emolex(write(tmp_path / "e.txt", text))


def test_bytes_that_are_not_text_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_bytes(b"glad\tjoy\t1\n\xff\xfe\tjoy\t1\n")
    with pytest.raises(CtsmError, match="line 2: not UTF-8"):
        read_emolex(tmp_path / "e.txt")
    with pytest.raises(CtsmError, match=r"no such file \(the emotion lexicon\)"):
        read_emolex(tmp_path / "absent.txt")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("emolex") / "e.txt"
    path.write_text(text, encoding="utf-8")
    try:
        words = read_emolex(path)
    except CtsmError:
        return
    assert words and not words & FUNCTION_WORDS
