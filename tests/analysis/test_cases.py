"""Which contexts `ctsm cases` picks, what it calls the systems, and that it shows what they say."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm import load
from ctsm.analysis import cases as cases_module
from ctsm.analysis.cases import Contexts, _perceived_in_data, _perceived_in_texts, make_cases, system_names
from ctsm.analysis.cases_pick import Choice, disagreement, pick
from ctsm.care import notice_for
from ctsm.cli.main import main
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.errors import CtsmError
from ctsm.evaluation.evaluate import evaluate
from ctsm.evaluation.replies import read_replies
from ctsm.serving.generate import ContextItem


@pytest.fixture(scope="module")
def other_data(tiny_dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same dialogues with a smaller vocabulary."""
    out = tmp_path_factory.mktemp("other") / "data"
    options = PrepareOptions(
        str(tiny_dialogues), vad="sample", vector_size=16, inferences="atomic:sample", vocabulary="train"
    )
    prepare(options, out)
    return out


@pytest.fixture(scope="module")
def runs(
    prepared: Path, other_data: Path, save_untrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "first": save_untrained(folder / "first", prepared, 1),
        "second": save_untrained(folder / "second", prepared, 2),
        "other words": save_untrained(folder / "small", other_data, 3),
        "no emotions": save_untrained(folder / "plain", prepared, 4, "transformer"),
    }


def items(labels: str) -> list[ContextItem]:
    return [ContextItem(f"c{n}", f"talk{n}", ("hello",), None, label) for n, label in enumerate(labels.split())]


def nobody(rows: object) -> list[np.ndarray]:
    raise AssertionError("emotions are read for the sake of disagreement only")


def test_ids_come_in_the_order_asked_for() -> None:
    assert pick(items("sad sad proud"), Choice(ids=("c2", "c0")), nobody, "data") == [2, 0]
    with pytest.raises(CtsmError, match=r"data: has no context with the id 'c9'; an id is like 'c0'\."):
        pick(items("sad"), Choice(ids=("c0", "c9")), nobody, "data")


def test_by_emotion_and_number() -> None:
    labels = "sad proud sad sad proud"
    assert pick(items(labels), Choice("sad"), nobody, "data") == [0, 2, 3]
    assert pick(items(labels), Choice(), nobody, "data") == [0, 1, 2, 3, 4]
    with pytest.raises(CtsmError, match=r"no context has the label 'happy'; the labels there: proud, sad\."):
        pick(items(labels), Choice("happy"), nobody, "data")
    bare = [ContextItem("1", "1", ("hello",), None, None)]
    with pytest.raises(CtsmError, match="the labels there: none at all"):
        pick(bare, Choice("happy"), nobody, "data")


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 100))
def test_drawn_contexts_are_of_the_label_different_and_the_same_for_a_seed(size: int, count: int, seed: int) -> None:
    labels = " ".join(random.Random(size).choices(["sad", "proud"], k=size)) + " sad"
    choice = Choice("sad", count=count, seed=seed)
    found = pick(items(labels), choice, nobody, "data")
    sad = [row for row, label in enumerate(labels.split()) if label == "sad"]
    assert len(found) == min(count, len(sad)) and set(found) <= set(sad)
    assert found == sorted(set(found)) == pick(items(labels), choice, nobody, "data")
    assert set(found) <= set(pick(items(labels), Choice("sad", count=count + 1, seed=seed), nobody, "data"))


def test_seeds_draw_differently() -> None:
    assert len({tuple(pick(items("sad " * 40), Choice(count=5, seed=seed), nobody, "")) for seed in range(5)}) == 5


@given(st.integers(0, 1_000), st.integers(2, 4))
def test_disagreement_by_a_loop_over_pairs(seed: int, systems: int) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.full(5, 0.4), (systems, 7))
    differ, distance = disagreement(list(shares))
    for row in range(7):
        best = {max(range(5), key=lambda emotion: shares[one, row, emotion]) for one in range(systems)}
        assert differ[row] == (len(best) > 1)
        pairs = [(one, two) for one in range(systems) for two in range(one)]
        common = [sum(min(shares[one, row, e], shares[two, row, e]) for e in range(5)) for one, two in pairs]
        assert distance[row] == pytest.approx(1 - sum(common) / len(pairs))


def test_the_farthest_apart_come_first_one_of_each_conversation_and_ties_by_id() -> None:
    talks = [("b", "1"), ("a", "2"), ("c", "3"), ("d", "3"), ("e", "4")]
    contexts = [ContextItem(name, talk, ("hello",), None, "sad") for name, talk in talks]
    one = np.array([[0.9, 0.1], [0.9, 0.1], [1.0, 0.0], [0.9, 0.1], [0.9, 0.1]])
    two = np.array([[0.2, 0.8], [0.2, 0.8], [0.0, 1.0], [0.1, 0.9], [0.6, 0.4]])
    asked: list[list[int]] = []

    def emotions_of(rows: list[int]) -> list[np.ndarray]:
        asked.append(list(rows))
        return [one[rows], two[rows]]

    assert pick(contexts, Choice(disagreement=True), emotions_of, "data") == [2, 1, 0], "e: the same emotion is first"
    assert pick(contexts, Choice(disagreement=True, count=2), emotions_of, "data") == [2, 1]
    assert asked == [[0, 1, 2, 3, 4]] * 2
    with pytest.raises(CtsmError, match="data: the runs perceive the same emotion in all 5 contexts"):
        pick(contexts, Choice(disagreement=True), lambda rows: [one, one], "data")


def test_names_tell_systems_apart_and_say_no_more() -> None:
    def names(*systems: tuple[str, str, str, int]) -> list[str]:
        return system_names([(Path(place), *rest) for place, *rest in systems])

    assert names(("/a", "ctsm", "", 1), ("/b", "cem", "", 1)) == ["ctsm", "cem"]
    assert names(("/a", "ctsm", "", 1), ("/b", "ctsm", "w/o TEE", 1)) == ["ctsm", "ctsm w/o TEE"]
    assert names(("/a", "ctsm", "", 1), ("/b", "ctsm", "", 2), ("/c", "cem", "", 1)) == [
        *("ctsm, seed 1", "ctsm, seed 2", "cem"),
    ]
    assert names(("/x/a/best", "ctsm", "", 1), ("/x/b", "ctsm", "", 1)) == ["ctsm, a", "ctsm, b"]
    assert names(("/x/a", "ctsm", "", 1), ("/y/a", "ctsm", "", 1)) == ["ctsm (/x/a)", "ctsm (/y/a)"]
    assert names(("/a", "ctsm", "v", 1), ("/b", "ctsm", "v", 2), ("/c", "ctsm", "", 1)) == [
        *("ctsm v, seed 1", "ctsm v, seed 2", "ctsm"),
    ]


def test_replies_and_emotions_are_those_of_the_evaluation(
    runs: dict[str, Path], prepared: Path, tmp_path: Path
) -> None:
    contexts = Contexts.of_data(prepared, "test")
    found = make_cases([runs["first"], runs["no emotions"]], contexts, Choice())
    for place, name in enumerate(("first", "no emotions")):
        replies = read_replies(evaluate(runs[name], prepared, "test", tmp_path / name).replies_file)
        assert len(found) == len(replies)
        for case, reply in zip(found, replies, strict=True):
            assert (case.id, case.context, case.reference, case.emotion) == (
                *(reply.id, reply.context, reply.reference, reply.emotion),
            )
            answer = case.answers[place]
            assert answer.reply == reply.reply
            assert (answer.emotions[0][0] if answer.emotions else None) == reply.predicted


def test_both_ways_to_read_emotions_agree(runs: dict[str, Path], prepared: Path) -> None:
    contexts, responder = Contexts.of_data(prepared, "train"), load(runs["first"])
    rows = np.array([5, 0, 17, 3])
    assert contexts.data is not None
    fast = _perceived_in_data(responder, contexts.data, "train", rows)
    texts = [contexts.items[row].context for row in rows]
    assert fast == pytest.approx(_perceived_in_texts(responder, texts), abs=1e-5)
    for row, turns in zip(fast, texts, strict=True):
        assert row == pytest.approx(list(responder.respond(turns).probabilities.values()), abs=1e-5)


def test_disagreement_over_runs_on_other_words_and_without_emotions(
    runs: dict[str, Path], prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts, used = Contexts.of_data(prepared, "test"), list[str]()
    for name in ("_perceived_in_data", "_perceived_in_texts"):
        own = getattr(cases_module, name)
        monkeypatch.setattr(cases_module, name, lambda *args, own=own, name=name: used.append(name) or own(*args))
    places = [runs["first"], runs["second"], runs["other words"], runs["no emotions"]]
    found = make_cases(places, contexts, Choice(disagreement=True))
    assert used == ["_perceived_in_data", "_perceived_in_data", "_perceived_in_texts"]
    assert found and all(len({answer.emotions[0][0] for answer in case.answers[:3]}) > 1 for case in found)
    assert [len(case.answers) for case in found] == [4] * len(found)
    with pytest.raises(CtsmError, match="give at least two runs that perceive emotions"):
        make_cases([runs["first"], runs["no emotions"]], contexts, Choice(disagreement=True))


def write(path: Path, *lines: object) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_contexts_of_ones_own_to_the_terminal_and_to_files(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(
        tmp_path / "own.jsonl",
        {"id": "gift", "context": ["I got my dream gift!"], "emotion": "excited", "reference": "How lovely."},
        {"context": ["The bridge is high.", "Will you jump?", "I shake all over."]},
    )
    arguments = ["cases", str(runs["first"]), str(runs["second"]), "--contexts", source]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "ctsm, seed 1: replying to 2 contexts" in printed.err
    for text in ("## 1. excited (gift)", "## 2. no label (2)", "How lovely.", "**Listener:** Will you jump?"):
        assert text in printed.out
    reply = load(runs["second"]).respond(["I got my dream gift!"])
    name, share = reply.top_emotions(1)[0]
    (row,) = (line for line in printed.out.splitlines()[:20] if line.startswith("| ctsm, seed 2 |"))
    assert f" {name} {100 * share:.0f} %" in row
    assert main([*arguments, "-o", str(tmp_path / "cases.md")]) == 0
    assert (tmp_path / "cases.md").read_text(encoding="utf-8") == printed.out
    assert main([*arguments, "-o", str(tmp_path / "cases.html")]) == 0
    assert "dream gift" in (tmp_path / "cases.html").read_text(encoding="utf-8")


def test_five_contexts_of_the_data_unless_told_otherwise(
    runs: dict[str, Path], prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["cases", str(runs["first"]), "--data", str(prepared), "--split", "train"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("\n## ") == 5
    names = [item.id for item in Contexts.of_data(prepared, "train").items[:7]]
    assert main([*arguments, "--id", *names]) == 0
    assert capsys.readouterr().out.count("\n## ") == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "contexts come from --data DIR or from --contexts FILE.jsonl; give one of the two."),
        (["--data", "DATA", "--contexts", "own.jsonl"], "give one of the two."),
        (["--data", "DATA", "-o", "cases.txt"], "cases.txt: the suffix says the format"),
        (["--data", "DATA", "--id", "a", "--count", "2"], "--id names the contexts itself"),
        (["--data", "DATA", "--id", "a", "a"], "--id names a context twice"),
        (["--data", "DATA", "--count", "0"], "--count is 0; it must be at least 1."),
        (["--data", "DATA", "--emotion", "glad"], "no context has the label 'glad'"),
        (["--data", "DATA", "RUN"], "is given twice, as a run or its model; give each once."),
        (["--contexts", "twice.jsonl"], "twice.jsonl: the id 'x' is used twice"),
        (["--contexts", "absent.jsonl"], "absent.jsonl: no such file"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    words: list[str],
    message: str,
    runs: dict[str, Path],
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "twice.jsonl", {"id": "x", "context": ["hi"]}, {"id": "x", "context": ["ho"]})
    names = {"DATA": str(prepared), "RUN": str(runs["first"])}
    given = [names.get(word, word) for word in words]
    runs_first = [str(runs["first"]), *(word for word in given if word == names["RUN"])]
    out = [] if "-o" in words else ["-o", "out.md"]
    assert main(["cases", *runs_first, *(word for word in given if word != names["RUN"]), *out]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"twice.jsonl"}


def test_what_a_system_says_is_shown_even_where_a_notice_would_stand(runs: dict[str, Path]) -> None:
    danger = "i want to kill myself"
    assert notice_for(danger) is not None
    item = ContextItem("x", "x", (danger,), None, None)
    (case,) = make_cases([runs["first"]], Contexts("here", [item]), Choice())
    assert case.answers[0].reply == load(runs["first"], care=False).respond([danger]).text
