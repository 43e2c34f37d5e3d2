"""Cases as Markdown and HTML: whatever people and systems say is text, and stays where it belongs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ctsm.analysis.cases import Answer, Case
from ctsm.analysis.cases_text import cases_markdown, cases_page, check_suffix, write_cases
from ctsm.errors import CtsmError

READER = MarkdownIt("commonmark").enable("table")
HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    st.text("|\\`*_<>&[]\"'#= \nab/", max_size=20),
    st.sampled_from(["<script>alert(1)</script>", "| a | b |", "</td></tr>", "\n\n# x", "{{ 7 * 7 }}", "{% raw %}"]),
)
WORDS = st.text("abc", min_size=1, max_size=5)
SHARES = st.lists(st.tuples(WORDS, st.floats(0, 1)), max_size=3).map(tuple)
ANSWERS = st.lists(st.builds(Answer, HOSTILE, HOSTILE, SHARES), min_size=1, max_size=3).map(tuple)
CASES = st.lists(
    st.builds(
        Case,
        id=HOSTILE,
        context=st.lists(HOSTILE, min_size=1, max_size=3).map(tuple),
        reference=st.none() | HOSTILE,
        emotion=st.none() | WORDS,
        answers=ANSWERS,
    ),
    min_size=1,
    max_size=2,
)


def one_line(text: str) -> str:
    return " ".join(text.split())


@settings(max_examples=60)
@given(CASES)
def test_markdown_keeps_rows_and_texts(cases: list[Case]) -> None:
    tokens = READER.parse(cases_markdown(cases))
    assert [token.type for token in tokens].count("table_open") == len(cases)
    cells: list[str] = []
    for before, token in itertools.pairwise(tokens):
        if before.type == "td_open":
            cells.append("".join(child.content for child in token.children or []))
    expected = []
    for case in cases:
        if case.reference is not None:
            expected += ["person", case.emotion or "no label", one_line(case.reference)]
        for answer in case.answers:
            shares = [f"{name} {100 * share:.0f} %" for name, share in answer.emotions]
            expected += [one_line(answer.system), ", ".join(shares) or "no emotion"]
            expected += [one_line(answer.reply or "(no word)")]
    assert cells == expected
    assert sum(token.type == "heading_open" for token in tokens) == 1 + len(cases)
    assert not [token for token in tokens if token.type in ("html_block", "fence", "code_block")]


class Reader(HTMLParser):
    """Tags in order, and the text of each cell and turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.parts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        self.parts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.parts.append("")

    def handle_data(self, data: str) -> None:
        if self.parts:
            self.parts[-1] += data


@settings(max_examples=60)
@given(CASES)
def test_the_page_shows_every_text_and_gains_no_tag(cases: list[Case]) -> None:
    page = Reader(cases_page(cases))
    harmless = [
        replace(
            case,
            id="x",
            context=("x",) * len(case.context),
            reference=case.reference and "x",
            answers=tuple(replace(answer, system="x", reply=answer.reply and "x") for answer in case.answers),
        )
        for case in cases
    ]
    assert page.tags == Reader(cases_page(harmless)).tags
    for case in cases:
        said = [*case.context, case.id, *(answer.reply for answer in case.answers), case.reference or ""]
        for text in said:
            assert text.strip() in {part.strip() for part in page.parts} | {""}


def test_the_label_stands_out_and_gaps_are_named() -> None:
    case = Case(
        "7", ("I won!",), "Great.", "proud", (Answer("a", "", (("proud", 0.5), ("sad", 0.25))), Answer("b", "Oh.", ()))
    )
    markdown = cases_markdown([case])
    assert "| *person* | **proud** | Great. |" in markdown
    assert "| a | **proud** 50 %, sad 25 % | (no word) |" in markdown
    assert "| b | no emotion | Oh. |" in markdown
    page = cases_page([case])
    assert "<li><b>proud</b> 50 %</li><li>sad 25 %</li>" in page
    assert page.count("no emotion") == 1


def test_half_a_surrogate_pair_is_written_as_a_question_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [Case("1", ("odd \ud800 text",), None, None, (Answer("a", "fine", ()),))]
    for name in ("cases.md", "cases.html"):
        write_cases(cases, tmp_path / name)
        assert "odd ? text" in (tmp_path / name).read_text(encoding="utf-8")
    capsys.readouterr()
    write_cases(cases, None)
    assert "odd ? text" in capsys.readouterr().out


def test_the_suffix_is_the_format() -> None:
    for good in (None, Path("a.md"), Path("b.html")):
        check_suffix(good)
    with pytest.raises(CtsmError, match=r"a\.pdf: the suffix says the format; end the name in \.md or \.html\."):
        check_suffix(Path("a.pdf"))
