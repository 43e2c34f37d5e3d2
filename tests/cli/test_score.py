from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.cli import score
from ctsm.errors import CtsmError
from ctsm.evaluation.score import score_files

REPLIES = "that is great !\n\nthat is bad .\nthat is great !\n"


def run(*words: str | Path) -> None:
    parser = jsonargparse.ArgumentParser()
    score.add_arguments(parser)
    score.run(parser.parse_args([str(word) for word in words]))


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_json_holds_the_agreed_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(file(tmp_path, "r.txt", REPLIES), "--json")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    value = json.loads(printed)
    assert value == {
        "n": 4,
        "dist1": pytest.approx(100 * 6 / 12),
        "dist2": pytest.approx(100 * 5 / 9),
        "unigrams": 12,
        "bigrams": 9,
        "mean_length": 3.0,
        "distinct_replies": 3,
        "empty_replies": 1,
    }


def test_bleu_comes_with_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    replies = file(tmp_path, "r.txt", "a b c d e\na b c d\n")
    run(replies, "--references", file(tmp_path, "g.txt", "a b c d f\na b c d"), "--json")
    value = json.loads(capsys.readouterr().out)
    assert value["bleu4"] == pytest.approx(100 * ((8 / 9) * (6 / 7) * (4 / 5) * (2 / 3)) ** 0.25)
    assert "tok:none" in value["bleu_signature"]


def test_the_table_always_shows_n(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(file(tmp_path, "r.txt", REPLIES))
    lines = [line for line in capsys.readouterr().out.splitlines() if "n (replies)" in line]
    assert len(lines) == 1
    assert " 4 " in lines[0]
    references = file(tmp_path, "g.txt", "a\nb\nc\nd\n")
    run(tmp_path / "r.txt", "--references", references)
    assert "BLEU-4" in capsys.readouterr().out


def test_a_replies_file_is_read_for_its_tokens(tmp_path: Path):
    values: list[dict[str, Any]] = [
        {
            "id": str(number),
            "conversation_id": "c",
            "context": [],
            "reference": "Oh no!",
            "reply": "I'm so sorry.",
            "reply_tokens": tokens,
            "emotion": None,
            "predicted": None,
            "system": "s",
        }
        for number, tokens in enumerate((["i", "am", "so", "sorry", "."], []))
    ]
    replies = file(tmp_path, "r.jsonl", "".join(json.dumps(value) + "\n" for value in values))
    assert score_files(replies) == score_files(file(tmp_path, "r.txt", "i am so sorry .\n\n"))
    assert score_files(replies).bleu is None  # its `reference` is no token list
    references = file(tmp_path, "g.txt", "i am so sorry .\nwhat ?\n")
    assert score_files(replies, references) == score_files(tmp_path / "r.txt", references)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "'s", "?"]), max_size=6), min_size=1, max_size=8))
def test_a_file_equals_a_written_out_count(tmp_path_factory: pytest.TempPathFactory, replies: list[list[str]]):
    path = tmp_path_factory.mktemp("score") / "r.txt"
    path.write_text("".join(" ".join(reply) + "\n" for reply in replies))
    result = score_files(path)
    unigrams = [token for reply in replies for token in reply]
    bigrams = [pair for reply in replies for pair in itertools.pairwise(reply)]
    assert (result.n, result.unigrams, result.bigrams) == (len(replies), len(unigrams), len(bigrams))
    assert result.dist1 == pytest.approx(100 * len(set(unigrams)) / max(1, len(unigrams)))
    assert result.dist2 == pytest.approx(100 * len(set(bigrams)) / max(1, len(bigrams)))
    assert result.mean_length == pytest.approx(len(unigrams) / len(replies))
    assert result.distinct_replies == len({" ".join(reply) for reply in replies})
    assert result.empty_replies == sum(not reply for reply in replies)


@pytest.mark.parametrize(
    ("replies", "references", "message"),
    [
        ("", None, r"r\.txt: holds no reply"),
        ("a\nb\n", "a\n", r"g\.txt: number of references 1, but number of replies in .*r\.txt 2;"),
        ("a\nb\n", "a\n \n", r"g\.txt, line 2: the reference is empty"),
        ("a\n", "\ufeff", r"g\.txt: number of references 0"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, replies: str, references: str | None, message: str):
    gold = None if references is None else file(tmp_path, "g.txt", references)
    with pytest.raises(CtsmError, match=message):
        score_files(file(tmp_path, "r.txt", replies), gold)


def test_missing_files_and_the_same_file_are_refused(tmp_path: Path):
    replies = file(tmp_path, "r.txt", "a b\n")
    with pytest.raises(CtsmError, match=r"none\.txt: no such file"):
        score_files(tmp_path / "none.txt")
    with pytest.raises(CtsmError, match=r"none\.txt: no such file"):
        score_files(replies, tmp_path / "none.txt")
    with pytest.raises(CtsmError, match="is the file of replies itself"):
        score_files(replies, replies)


def test_scoring_needs_neither_torch_nor_the_other_heavy_libraries(tmp_path: Path):
    code = """
import sys
import ctsm.cli.score, ctsm.cli.tables
assert not {"sacrebleu", "numpy", "rich", "torch"} & set(sys.modules), "the verbs' help must stay light"
import ctsm.evaluation.tables, ctsm.evaluation.score
print(ctsm.evaluation.score.score_files(__import__("pathlib").Path(sys.argv[1])).n)
assert not {"torch", "scipy", "nltk", "transformers", "sacrebleu"} & set(sys.modules)
"""
    path = file(tmp_path, "r.txt", REPLIES)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("4\n", "")
