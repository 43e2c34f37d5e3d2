"""The report: with and without failing annotators, as JSON, Markdown, LaTeX and for the terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ctsm.cli.main import main
from ctsm.errors import CtsmError, MissingExtraError
from ctsm.judging.agreement import Agreement
from ctsm.judging.exports import HEADER
from ctsm.judging.report import Report, make_report, read_report, write_report
from ctsm.judging.report_tables import HOW_TO_READ, latex, latex_escaped, markdown, notes, number, terminal_tables
from ctsm.judging.results import Annotator, Results, Row
from ctsm.judging.study import Judgement, Pair, Study

Judged = Callable[..., tuple[Study, list[Judgement]]]
Built = tuple[Study, list[Judgement]]


@pytest.fixture(scope="module")
def built(judged: Judged) -> Built:
    """Three annotators, of whom the third fails the catch trials; the second pair is unfinished."""
    return judged(
        {
            "CTSM vs. KEMP": {"empathy": ["WWW", "WWL", "WTL", "LLT"], "relevance": ["TTT", "TTT", "TTT", "TTT"]},
            "CTSM vs. CEM": {"empathy": ["WWL", "WWL", "LLW", "WW."], "relevance": ["LLL", "LTL", "WWT", "WTL"]},
        },
        {"empathy": ["LLL"] * 3, "relevance": ["WWW", "WWL", "WTT"]},
    )


@pytest.fixture(scope="module")
def report(built: Built) -> Report:
    return make_report(*built, closed=True, resamples=200)


def table_of(page: str, title: str) -> list[list[str]]:
    """Return the cells of the first Markdown table below a heading."""
    lines = page[page.index(title) :].splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [rows[0], *rows[2:]]


def test_the_report_without_failing_annotators_is_that_of_the_others_alone(judged: Judged, report: Report) -> None:
    assert report.failing == ("3",)
    assert report.without_failing is not None
    assert report.without_failing.annotators == ("1", "2")
    alone = judged(
        {
            "CTSM vs. KEMP": {"empathy": ["WW", "WW", "WT", "LL"], "relevance": ["TT"] * 4},
            "CTSM vs. CEM": {"empathy": ["WW", "WW", "LL", "WW"], "relevance": ["LL", "LT", "WW", "WT"]},
        }
    )
    assert report.without_failing.rows == make_report(*alone, closed=True, resamples=200).everyone.rows
    assert report.everyone.rows != report.without_failing.rows


def test_catch_trials_change_no_row(judged: Judged) -> None:
    table = {"P": {"empathy": ["WWL", "TTL"]}}
    plain, caught = (
        make_report(*judged(table, catch), closed=True, resamples=50) for catch in ({}, {"empathy": ["LWL"] * 5})
    )
    assert plain.everyone == caught.everyone
    assert (plain.catch_trials, caught.catch_trials) == (0, 15)


def test_what_is_missing_is_said(built: Built, report: Report) -> None:
    said = " ".join(notes(report))
    assert report.missing == 1
    assert "Unfinished: 1 of 66 judgements are missing (annotator 3: 1)." in said  # 3 · (2 · 4 + 3) · 2
    assert "CTSM vs. CEM, empathy: 1 of 4 items are left out of κ" in said
    assert "CTSM vs. KEMP, relevance: κ is undefined" in said
    assert "raw agreement 100.0 %" in said
    assert "Failed: annotator 3; results are given with and without." in said
    assert "interim" not in said
    assert "interim" in " ".join(notes(make_report(*built, closed=False, resamples=10)))
    assert "Interim" in latex(make_report(*built, closed=False, resamples=10))


@pytest.mark.parametrize(
    ("aspect", "catch", "said"),
    [
        ("relevance", [], "The study has no catch trials"),
        ("fluency", ["LL"], "No aspect that was asked depends on the context"),
        ("relevance", ["WW"], "Nobody failed."),
        ("relevance", ["LL"], "Every annotator failed"),
        ("relevance", ["WL"], "Failed: annotator 2;"),
        ("relevance", [".."], "Nobody has judged a catch trial yet, so nobody is checked."),
        ("relevance", ["W."], "Nobody failed. 1 of 2 annotators has judged no catch trial and is unchecked."),
        (
            "relevance",
            [".L"],
            "Failed: annotator 2; results are given with and without. 1 of 2 annotators has judged no",
        ),
    ],
)
def test_what_the_catch_trials_show_is_said(judged: Judged, aspect: str, catch: list[str], said: str) -> None:
    found = make_report(*judged({"P": {aspect: ["WT"]}}, {aspect: catch} if catch else {}), closed=True, resamples=10)
    assert said in " ".join(notes(found))
    assert (found.without_failing is not None) == said.startswith("Failed")


def test_the_report_is_written_and_read(report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_report(folder, report)
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "report.md", "table.tex"]
    assert read_report(folder / "report.json") == report
    value = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert value["everyone"]["rows"][1]["agreement"]["kappa"] is None
    for changes, message in (
        ({"schema": 2}, "schema 2, but this version"),
        ({"items": "many"}, "'items' must be an integer"),
        ({"everyone": {"annotators": [], "rows": [{}]}}, "in 'rows', number 1: the field 'pair' is missing"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(value | changes))
        with pytest.raises(CtsmError, match=message):
            read_report(tmp_path / "bad.json")


@pytest.mark.parametrize("name", ["report.md", "table.tex", "report.json"])
def test_a_report_replaces_nothing(report: Report, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("kept")
    with pytest.raises(CtsmError, match=f"{name}: exists already and stays as it is"):
        write_report(tmp_path, report)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "kept")]


def test_the_same_study_gives_the_same_numbers(built: Built, report: Report) -> None:
    assert replace(make_report(*built, closed=True, resamples=200), made="") == replace(report, made="")


def test_the_markdown_table_is_the_papers(report: Report) -> None:
    found = table_of(markdown(report), "## All annotators")
    assert found == [
        ["Comparison", "Aspect", "Win", "Tie", "Lose", "κ", "n"],
        ["CTSM vs. KEMP", "Empathy", "**50.0**", "16.7", "33.3", "0.05", "12"],
        ["", "Relevance", "0.0", "100.0", "0.0", "-", "12"],
        ["CTSM vs. CEM", "Empathy", "**63.6**", "0.0", "36.4", "-0.35", "11"],
        ["", "Relevance", "25.0", "25.0", "**50.0**", "0.07", "12"],
    ]
    # Kappa of the third row, of three complete items: agreeing pairs 1/3 each; by chance (5² + 4²) / 9² = 41/81.
    assert round((1 / 3 - 41 / 81) / (1 - 41 / 81), 2) == -0.35
    # Of the fourth: (1 + 1/3 + 1/3 + 0) / 4 = 5/12; by chance (3² + 3² + 6²) / 12² = 3/8.
    assert round((5 / 12 - 3 / 8) / (1 - 3 / 8), 2) == 0.07
    without = table_of(markdown(report), "## Without annotator 3")
    assert without[1] == ["CTSM vs. KEMP", "Empathy", "**62.5**", "12.5", "25.0", "0.53", "8"]
    annotators = table_of(markdown(report), "## Annotators")
    assert annotators[3] == ["3", "failed", "1 of 3", "21 of 22"]


def test_names_cannot_break_the_tables(built: Built, tmp_path: Path) -> None:
    study, judgements = built
    nasty = r"A|B <b>50% & $x_1$ #~^{\ruin}"
    names = {pair.name: (nasty if place == 0 else pair.name) for place, pair in enumerate(study.pairs)}
    study = replace(study, pairs=tuple(Pair(name=names[pair.name], a="a", b="b") for pair in study.pairs))
    judgements = [replace(one, pair=names.get(one.pair, "")) for one in judgements]
    found = make_report(study, judgements, closed=True, resamples=10)
    page, tex = markdown(found), latex(found)
    assert "<b>" not in page
    headed = [line for line in page.splitlines() if line.startswith("| A\\|B")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in headed] == [8, 8, 9, 8, 8, 9]  # columns and one
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) == 6 for row in rows)
    assert rows[1].startswith(
        r"A\textbar{}B \textless{}b\textgreater{}50\% \& \$x\_1\$ "
        r"\#\textasciitilde{}\textasciicircum{}\{\textbackslash{}ruin\} &"
    )


def test_the_latex_table(report: Report) -> None:
    text = latex(report)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2  # with and without the failing annotator
    for command in (r"\toprule", r"\bottomrule", r"\end{tabular}"):
        assert text.count(command) == 2
    assert r"CTSM vs. CEM & Empathy & \textbf{63.6} & 0.0 & 36.4 & $-$0.35 & 11 \\" in text
    assert r" & Relevance & 0.0 & 100.0 & 0.0 & - & 12 \\" in text  # neither is larger, and no kappa
    assert text.count(r"\midrule") == 4


LATEX_CHARACTERS = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textquotedbl{}": '"',
    **{f"\\{sign}": sign for sign in "&%$#_{}"},
}


@given(st.text(st.sampled_from("ab \\{}$&#_%~^<>|\"'-é"), max_size=30))
def test_escaped_latex_prints_the_text(text: str) -> None:
    """What LaTeX would print, read sign by sign: a command stands for its character, the rest for itself."""
    escaped, printed = latex_escaped(text), ""
    while escaped:
        command = next((one for one in LATEX_CHARACTERS if escaped.startswith(one)), None)
        assert command or escaped[0] not in "\\{}$&#_%~^"
        printed += LATEX_CHARACTERS[command] if command else escaped[0]
        escaped = escaped[len(command or "-") :]
    assert printed == " ".join(text.split())


@pytest.mark.parametrize(
    ("value", "digits", "signed", "printed"),
    [(None, 1, False, "-"), (-0.04, 1, True, "+0.0"), (-0.001, 2, False, "0.00"), (12.345, 1, True, "+12.3")],
)
def test_numbers_are_never_minus_zero(value: float | None, digits: int, signed: bool, printed: str) -> None:
    assert number(value, digits, signed) == printed


def test_the_terminal_shows_what_the_page_has_within_80_columns(report: Report) -> None:
    console = Console(width=80, record=True, file=StringIO())
    for table in terminal_tables(report):
        console.print(table)
    shown = console.export_text()
    first = next(line for line in shown.splitlines() if "KEMP" in line)
    assert first.split() == ["CTSM", "vs.", "KEMP", "Empathy", "50.0", "16.7", "33.3", "0.05", "12"]
    assert shown.count("CTSM vs. KEMP") == 6  # nothing is cut or wrapped
    assert "without annotator 3" in shown


class FakeStore:
    """Stands in for the database of a study."""

    held: Built
    closed = True
    places: list[str] = []  # noqa: RUF012
    shut = 0

    @classmethod
    @contextmanager
    def opened(cls, place: str) -> Iterator[FakeStore]:
        cls.places.append(place)
        yield cls()
        cls.shut += 1

    def study(self) -> Study:
        return self.held[0]

    def judgements(self) -> list[Judgement]:
        return self.held[1]


@pytest.fixture
def store(built: Built, monkeypatch: pytest.MonkeyPatch) -> type[FakeStore]:
    class Store(FakeStore):
        held = built
        places: list[str] = []  # noqa: RUF012

    module = ModuleType("ctsm.judging.store")
    module.Store = Store  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ctsm.judging.store", module)
    return Store


def test_the_verb_prints_and_writes(store: type[FakeStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "report", "study.db", "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "Win, Tie and Lose (%)" in printed
    assert "Failed: annotator 3" in printed
    assert read_report(tmp_path / "out" / "report.json").resamples == 10_000
    assert (store.places, store.shut) == (["study.db"], 1)


@pytest.mark.parametrize("words", [["report"], ["export", "--format", "csv"], ["export", "--format", "potato"]])
def test_an_open_study_shows_nothing_unless_told_to(
    store: type[FakeStore], tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store.closed = False
    out, (verb, *rest) = tmp_path / "out", words
    given = ["judge", verb, "study.db", "-o", str(out), *rest]
    assert main(given) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(r"still open.*--while-open", printed.err)
    assert not out.exists()
    assert main([*given, "--while-open"]) == 0
    assert out.exists()
    assert ("interim results" in capsys.readouterr().out) == (verb == "report")


def test_the_documentation_names_every_field_and_column() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = "".join((docs / name).read_text(encoding="utf-8") for name in ("judging-report.md", "judging-exports.md"))
    named = set(re.findall(r"`([a-z_]+)`", page))
    for cls in (Report, Results, Row, Annotator, Agreement, Pair):
        assert {field.name for field in fields(cls)} <= named
    assert set(HEADER) <= named


@pytest.mark.parametrize("library", ["statsmodels.stats.inter_rater", "krippendorff"])
def test_a_missing_library_is_named(built: Built, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=r"ctsm\[judge\]"):
        make_report(*built, closed=True, resamples=10)


def test_how_to_read_names_the_resampling(report: Report) -> None:
    assert "(200 sets, seed 2024)" in markdown(report)
    assert all(text.split(":")[0].split(",")[0] in markdown(report) for text in HOW_TO_READ)
