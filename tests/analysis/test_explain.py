"""Explanations against the definitions written out, and their files as a reader meets them."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ctsm
from ctsm.analysis.comparison import change_of, compare_words
from ctsm.analysis.explain import Explanation, explain
from ctsm.analysis.explain_figure import MAX_WORDS, draw_explanation, draw_inclination
from ctsm.analysis.explain_files import explanation_page, explanation_text, write_explanation
from ctsm.analysis.order import DISPLAYED
from ctsm.care import NOTICE
from ctsm.cli.main import main
from ctsm.corpus.emotions import EMOTIONS
from ctsm.errors import CtsmError
from ctsm.serving.responder import Responder

TURNS = ["i was so happy when my sister called", "that is nice", "yes , we laughed and i felt zzyzx about my sister"]
MARKUP = '<img src=x onerror="alert(1)"> & $x^2$ happy'


@pytest.fixture(scope="module")
def explanation(responder: Responder) -> Explanation:
    return explain(responder, TURNS)


def test_reply_and_emotions_are_those_of_the_responder(responder: Responder, explanation: Explanation) -> None:
    assert explanation.response == responder.respond(TURNS)
    assert [word.token for word in explanation.reply] == list(explanation.response.tokens)


@torch.no_grad()
def test_copying_is_what_the_mixture_gives_word_by_word(responder: Responder, explanation: Explanation) -> None:
    """Decode each prefix anew, without caches, and write the mixture out."""
    model, vocabulary = responder.bundle.model, responder.bundle.vocabulary
    collated = responder.collate([TURNS])
    context = model.encode(collated.batch)
    ids = collated.batch.context[0].tolist()
    oov = collated.contexts[0].oov
    extended = {word: len(vocabulary) + place for place, word in enumerate(oov)}
    said = [extended.get(word) or vocabulary.ids([word])[0] for word in explanation.response.tokens]
    assert said, "the untrained model must say something, or nothing is tested"
    for t, (word, shown) in enumerate(zip(said, explanation.reply, strict=True)):
        prefix = torch.tensor([said[:t]], dtype=torch.long)
        step = model.decode(prefix, context, model.start_decoding(context))
        hidden, scores = step.hidden[0, -1].double().numpy(), step.copy_scores[0, -1].double().numpy()
        weights = {name: value.double().numpy() for name, value in model.generator.state_dict().items()}
        gate = 1 / (1 + math.exp(-(weights["gate.weight"] @ hidden + weights["gate.bias"]).item()))
        logits = weights["vocabulary.weight"] @ hidden + weights["vocabulary.bias"]
        generated = 0.0
        if word < len(vocabulary):
            generated = gate * float(np.exp(logits - logits.max())[word] / np.exp(logits - logits.max()).sum())
        powers = np.exp(scores[1:] - scores[1:].max())
        copying = (1 - gate) * powers / powers.sum()
        np.testing.assert_allclose(shown.weights, copying, rtol=1e-4, atol=1e-7)
        copied = sum(weight for weight, place in zip(copying, ids[1:], strict=True) if place == word)
        assert shown.copied == pytest.approx(copied / (copied + generated), rel=1e-4)


def test_attention_sums_to_one_with_the_mark_before_the_words(explanation: Explanation) -> None:
    assert explanation.rest is not None
    assert sum(word.attention or 0.0 for word in explanation.words) + explanation.rest == pytest.approx(1, abs=1e-5)
    assert np.mean([word.intensity for word in explanation.words]) == pytest.approx(1, abs=0.2)  # CLS has a share too


@torch.no_grad()
def test_standardised_inclination_is_the_distance_from_the_vocabularys_mean(
    responder: Responder, explanation: Explanation
) -> None:
    model = responder.bundle.model
    table = model.inclination_of_words().double().numpy()
    for word, shown in zip(explanation.words, explanation.standardised, strict=True):
        for e in range(32):
            column = table[:, e]
            mean = sum(column) / len(column)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in column) / len(column))
            assert shown[e] == pytest.approx((word.inclination[e] - mean) / deviation, rel=1e-3, abs=1e-3)


def test_a_model_without_word_emotions_is_refused(save_model: Callable[..., Path]) -> None:
    for folder in (save_model("transformer"), save_model("ctsm", "--options.without", "SEE")):
        with pytest.raises(CtsmError, match="does not perceive trait and state emotions"):
            explain(ctsm.load(folder), ["hello there"])


@pytest.mark.parametrize("pool", ["sum", "sum_gate"])
def test_a_head_without_attention_is_explained_too(save_model: Callable[..., Path], pool: str, tmp_path: Path) -> None:
    found = explain(ctsm.load(save_model("ctsm", "--options.emotion_pool", pool)), ["i am happy"])
    assert found.rest is None
    assert {word.attention for word in found.words} == {None}
    write_explanation(found, tmp_path / "x.html")
    assert "no attention" in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_compared_words_are_the_common_ones_with_their_distances(responder: Responder) -> None:
    first, second = explain(responder, ["happy happy day , i smile"]), explain(responder, ["a sad day , not happy"])
    changes = {change.token: change for change in compare_words(first, second)}
    assert set(changes) == {"happy", "day", ","}
    change = changes["happy"]
    a, b = first.words[0], second.words[5]
    assert (a.token, b.token) == ("happy", "happy")
    assert change.state_distance == pytest.approx(sum(abs(x - y) for x, y in zip(a.state, b.state, strict=True)) / 2)
    gaps = [abs(x - y) for x, y in zip(a.inclination, b.inclination, strict=True)]
    assert change.inclination_mean == pytest.approx(sum(gaps) / 32)
    assert change.inclination_max == pytest.approx(max(gaps))
    ordered = compare_words(first, second)
    assert [c.state_distance for c in ordered] == sorted((c.state_distance for c in ordered), reverse=True)
    assert change_of(ordered, None).token == next(c.token for c in ordered if c.in_lexicon)
    with pytest.raises(CtsmError, match="choose one of"):
        change_of(ordered, "sad")
    with pytest.raises(CtsmError, match="no word in common"):
        change_of(compare_words(first, explain(responder, ["snow fell"])), None)


def texts_of(figure: object) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]  # type: ignore[attr-defined]


def test_the_figure_names_words_emotions_and_panels(explanation: Explanation) -> None:
    shown = texts_of(draw_explanation(explanation))
    for emotion in DISPLAYED:
        assert shown.count(emotion) == 2  # a row of each of the two maps
    for word in explanation.words:
        assert word.token in shown
    for panel in ("Trait", "Weight", "State", "Inclination", "Copying", "All words", "Inferred"):
        assert any(text.startswith(panel) for text in shown), panel


def test_every_text_of_the_figure_is_inside_it_and_labels_do_not_overlap(responder: Responder) -> None:
    for turns in (["sad"], TURNS, [" ".join(["happy"] * 60)]):
        figure = draw_explanation(explain(responder, turns))
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure).draw()
        page = figure.bbox
        for axes in figure.axes:
            for labels in (axes.get_yticklabels(), axes.get_xticklabels()):
                boxes = [label.get_window_extent() for label in labels if label.get_text() and label.get_visible()]
                assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes), turns
            rows = [label.get_window_extent() for label in axes.get_yticklabels() if label.get_text()]
            rows.sort(key=lambda box: box.y0)
            assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(rows)), turns


def test_a_long_context_shows_its_last_words(responder: Responder) -> None:
    found = explain(responder, [" ".join(f"w{number}" for number in range(60))])
    shown = texts_of(draw_explanation(found))
    assert "w59" in shown
    assert f"w{60 - MAX_WORDS}" in shown
    assert f"w{59 - MAX_WORDS}" not in shown
    assert f"The last {MAX_WORDS} of 60 words are shown." in shown


def test_the_file_is_there_when_the_reader_of_the_text_has_gone(ctsm_directory: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ctsm.cli.main", "explain", str(ctsm_directory), "hello you", "-o", "x.json"]
    ended = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} | true"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert ended.stderr == ""
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["turns"] == ["hello you"]


def test_the_page_has_the_raw_inclination_too(responder: Responder) -> None:
    figure = draw_inclination(explain(responder, ["i am happy"]))
    shown = texts_of(figure)
    assert all(emotion in shown for emotion in DISPLAYED)
    assert "Inclination, raw" in explanation_page(explain(responder, ["i am happy"]))


class Page(HTMLParser):
    """Collects the tags, the attributes that load something, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("#", "data:"))
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_loads_nothing_and_shows_markup_as_text(responder: Responder) -> None:
    page = Page(explanation_page(explain(responder, [MARKUP])))
    assert page.loads == []
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert any(MARKUP in text for text in page.text)


def test_json_holds_everything(responder: Responder, explanation: Explanation, tmp_path: Path) -> None:
    write_explanation(explanation, tmp_path / "x.json")
    value = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert value["emotions"] == list(EMOTIONS)
    assert value["turns"] == TURNS
    words = value["response"]["context_tokens"]
    assert [word["token"] for word in words] == [word.token for word in explanation.words]
    assert [len(word["state"]) for word in words] == [32] * len(words)
    assert [word["trait"] is None for word in words] == [not word.in_lexicon for word in explanation.words]
    assert len(value["standardised"]) == len(words)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html"])
def test_the_verb_writes_the_file_of_the_suffix(
    ctsm_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out = tmp_path / f"x.{suffix}"
    assert main(["explain", str(ctsm_directory), "i am happy today", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "perceived" in printed
    assert str(out) in printed
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!DOCTYPE html>"}[suffix]
    assert out.read_bytes().startswith(start)
    if suffix == "png":
        assert Image.open(out).size[0] > 600


def test_the_verb_compares_a_word(ctsm_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.svg"
    arguments = ["explain", str(ctsm_directory), "i am happy", "--against", "happy dogs", "--word", "happy"]
    assert main([*arguments, "-o", str(out)]) == 0
    assert "same trait in both contexts" in capsys.readouterr().out
    assert "in two contexts" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hi", "-o", "x.gif"], "ends in none of"),
        (["hi", "--word", "hi"], "give --against too"),
        (["hi", "--against", "hi", "-o", "x.html"], "ends in none of .png, .svg, .pdf"),
        (["hi", "--context", "one turn"], "the last of 2 turns is the listener's"),
        (["   "], "holds no words"),
        (["hi", "-o", "FOLDER.svg"], "is a folder"),
        (["hi there", "--against", "hello", "--word", "hi"], "no word in common"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence_and_leaves_nothing(
    ctsm_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER.svg").mkdir()
    assert main(["explain", str(ctsm_directory), *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert [path.name for path in tmp_path.rglob("*")] == ["FOLDER.svg"]


def test_without_matplotlib_a_figure_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["explain", str(tmp_path / "no-model"), "hi", "-o", str(tmp_path / "x.svg")]) == 2
    assert "ctsm[plot]" in capsys.readouterr().err


def test_the_text_names_copied_words_and_says_when_there_is_none(explanation: Explanation) -> None:
    copied = [word.token for word in explanation.reply if word.copied >= 0.05]
    text = explanation_text(explanation)
    assert ("no word" in text) == (not copied)
    assert all(token in text for token in copied)


def test_with_a_notice_nothing_inferred_is_shown(responder: Responder, tmp_path: Path) -> None:
    withheld = explain(responder, ["I want to kill myself."])
    assert (withheld.response.text, withheld.reply, withheld.response.inferences) == (NOTICE, (), {})
    assert "(xIntent)" not in explanation_text(withheld)
    assert "Inferred from" not in explanation_page(withheld)
    write_explanation(withheld, tmp_path / "withheld.png")
    assert "(xIntent)" in explanation_text(explain(responder, ["I am fine."]))
