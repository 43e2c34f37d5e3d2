"""Comparing records: the right files, comparable ones only, every test of the table in the correction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctsm.cli.main import main
from ctsm.errors import CtsmError
from ctsm.evaluation.compare import compare, read_comparisons, record_file, write_comparisons
from ctsm.evaluation.records import (
    PerExample,
    ResultRecord,
    VocabularyInfo,
    per_example_file,
    write_per_example,
    write_record,
)
from ctsm.evaluation.significance import RESAMPLES, SEED, differences, holm
from ctsm.evaluation.tables import write_tables

Builder = Callable[..., ResultRecord]


def examples(shift: float, emotions: bool = True, n: int = 40, word: str = "w") -> list[PerExample]:
    return [
        PerExample(
            id=f"c{number // 2}#{number % 2}",
            conversation_id=f"c{number // 2}",
            nll=30.0 + number % 7 + shift * (number % 3),
            tokens=15,
            correct=(number + int(shift)) % 3 == 0 if emotions else None,
            reply_tokens=("i", "am", f"{word}{number % (5 + int(shift))}"),
        )
        for number in range(n)
    ]


def write(place: Path, record: ResultRecord, per_example: list[PerExample]) -> Path:
    write_record(place, record)
    write_per_example(per_example_file(place), per_example)
    return place


@pytest.fixture
def runs(tmp_path: Path, record: Builder) -> Path:
    """Three run directories evaluated on test: a, b, and c without emotions."""
    common: dict[str, Any] = {"split": "test", "options": {}}
    write(tmp_path / "a/evaluation/test.json", record(**common), examples(0))
    write(tmp_path / "b/evaluation/test.json", record(**common, model="cem"), examples(1))
    bare = record(**common, model="transformer", acc=None, top3=None, top5=None)
    write(tmp_path / "c/evaluation/test.json", bare, examples(2, emotions=False))
    return tmp_path


def test_each_score_of_each_system_is_compared_and_corrected_together(runs: Path) -> None:
    found = compare([(name, record_file(runs / name, "test")) for name in "abc"], "three")
    assert (found.title, found.split, found.n, found.conversations) == ("three", "test", 40, 20)
    assert (found.resamples, found.random_seed, found.reference) == (RESAMPLES, SEED, "a")
    assert [(row.record, row.metric) for row in found.rows] == [
        *(("b", metric) for metric in ("Acc", "PPL", "Dist-1", "Dist-2")),
        *(("c", metric) for metric in ("PPL", "Dist-1", "Dist-2")),
    ]
    expected = differences(examples(0), examples(1)) + differences(examples(0), examples(2, emotions=False))
    assert [(row.difference, row.interval, row.p) for row in found.rows] == [
        (one.difference, one.interval, one.p) for one in expected
    ]
    assert [row.p_holm for row in found.rows] == holm([one.p for one in expected])


def test_comparisons_are_written_and_read(runs: Path) -> None:
    found = compare([(name, record_file(runs / name, "test")) for name in "abc"])
    write_comparisons(runs / "x" / "c.json", found)
    assert read_comparisons(runs / "x" / "c.json") == found
    value = json.loads((runs / "x" / "c.json").read_text())
    for changes, message in (
        ({"schema": 2}, "schema 2, but this version"),
        ({"n": "many"}, "'n' must be an integer"),
        ({"rows": [{}]}, "in 'rows', number 1: the field 'record' is missing"),
        ({"rows": "none"}, "'rows' must be a list of objects"),
    ):
        (runs / "bad.json").write_text(json.dumps(value | changes))
        with pytest.raises(CtsmError, match=message):
            read_comparisons(runs / "bad.json")


@pytest.mark.parametrize(
    ("changes", "others", "message"),
    [
        ({"split": "dev"}, examples(1), "is of dev and .* of test"),
        ({"vocabulary": VocabularyInfo(size=9, kind="train")}, examples(1), "another vocabulary"),
        ({"n": 39}, examples(1), "not of the same evaluation"),
        ({"target_tokens": 1}, examples(1), "not of the same evaluation"),
        ({"n": 38, "target_tokens": 38 * 15}, examples(1, n=38), "not of the same examples"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    runs: Path, record: Builder, changes: dict[str, Any], others: list[PerExample], message: str
) -> None:
    other = write(runs / "d.json", record(**{"split": "test", "options": {}} | changes), others)
    with pytest.raises(CtsmError, match=rf"d(\.per-example)?\.json.*{message}"):
        compare([("a", record_file(runs / "a", "test")), ("d", other)])


def test_one_record_or_none_with_its_examples_is_refused(runs: Path, record: Builder) -> None:
    with pytest.raises(CtsmError, match="needs two records"):
        compare([("a", record_file(runs / "a", "test"))])
    write_record(runs / "bare.json", record(split="test"))
    with pytest.raises(CtsmError, match=r"bare\.per-example\.jsonl: no such file"):
        compare([("a", record_file(runs / "a", "test")), ("b", runs / "bare.json")])


def test_the_verb_takes_runs_and_records(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = runs / "out.json"
    assert main(["compare", str(runs / "a"), str(runs / "b/evaluation/test.json"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for metric in ("Acc", "PPL", "Dist-1", "Dist-2"):
        assert metric in printed
    assert "p (Holm)" in printed
    assert f"seed {SEED}" in " ".join(printed.split())
    assert len(read_comparisons(out).rows) == 4
    assert main(["compare", str(runs / "a"), str(runs / "b"), "--split", "dev"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    run = runs / "a"
    assert error == (
        f"ctsm compare: error: {run}: has not been evaluated on dev (no evaluation/dev.json); run `ctsm evaluate {run} "
        "--data DIR --split dev` first."
    )
    assert main(["compare", str(runs / "a"), str(runs / "nowhere")]) == 2
    assert "nowhere: no such file" in capsys.readouterr().err


def test_the_tables_show_tests_of_current_records(runs: Path, record: Builder) -> None:
    folder = runs / "results"
    names = {"a": "a-test.json", "b": "b-test.json"}
    for run, name in names.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(record_file(runs / run, "test").read_bytes())
    found = compare([(name, record_file(runs / run, "test")) for run, name in names.items()], "Table 1")
    write_comparisons(folder / "comparisons" / "table1.json", found)
    write_tables(folder, runs / "t.md")
    text = (runs / "t.md").read_text(encoding="utf-8")
    assert "## Significance, Table 1, test split" in text
    row = found.rows[1]
    assert f"| cem | 7 | PPL | {row.difference:+.2f} |" in text
    write_record(folder / "b-test.json", record(status="superseded", superseded_reason="a fault"))
    write_tables(folder, runs / "t.md")
    assert "Significance" not in (runs / "t.md").read_text(encoding="utf-8")
