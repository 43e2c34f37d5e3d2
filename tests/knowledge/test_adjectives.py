"""The tagger is trained here: nltk's own data is not needed."""

from __future__ import annotations

from pathlib import Path

import nltk.data
import pytest
from nltk.tag.perceptron import PerceptronTagger

from ctsm.errors import CtsmError
from ctsm.knowledge.adjectives import TAGGER_DATA, adjectives_of

SENTENCES = [
    [("the", "DT"), ("gloomy", "JJ"), ("house", "NN"), ("burned", "VBD")],
    [("a", "DT"), ("cheerful", "JJ"), ("dog", "NN"), ("barked", "VBD")],
    [("the", "DT"), ("happier", "JJR"), ("cat", "NN"), ("slept", "VBD")],
    [("the", "DT"), ("light", "NN"), ("went", "VBD"), ("off", "RP")],
    [("such", "JJ"), ("a", "DT"), ("first-class", "JJ"), ("trip", "NN")],
]


@pytest.fixture
def tagger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "taggers" / TAGGER_DATA
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    folder.mkdir(parents=True)
    trained = PerceptronTagger(load=False, lang="eng")
    trained.train(SENTENCES * 30)
    trained.save_to_json("eng", str(folder))


@pytest.mark.usefixtures("tagger")
def test_words_that_are_mostly_adjectives() -> None:
    texts = [[word for word, _ in sentence] for sentence in SENTENCES]
    assert adjectives_of(texts) == {"gloomy", "cheerful", "happier"}, "no function word, nothing but letters"


@pytest.mark.usefixtures("tagger")
def test_the_majority_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        PerceptronTagger, "tag", lambda _self, words: [(word, "JJ" if words[0] == "very" else "NN") for word in words]
    )
    assert adjectives_of([["very", "blue"], ["blue", "light"], ["very", "light"], ["very", "light"]]) == {"light"}


def test_without_the_data_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(CtsmError, match=r"--adjectives needs nltk's tagger data.*nltk\.downloader.*leave --adjectives"):
        adjectives_of([["blue"]])
