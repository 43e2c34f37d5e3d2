"""Text in Markdown is shown as it is, by a reader of CommonMark with tables."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ctsm.evaluation.markdown import escape_markdown, markdown_table

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.text("|\\`*_~<>&[]()!#$:/.-+= \n\tab1;", max_size=30),
)
CELLS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)


def shown(text: str) -> str:
    """What a reader shows: one line, without the character that CommonMark forbids."""
    return " ".join(text.split()).replace("\0", "\ufffd")


def read(markdown: str) -> list[str]:
    """Return the text of each inline part; anything but text fails."""
    found = []
    for token in READER.parse(markdown):
        if token.type == "inline":
            kinds = {child.type for child in token.children or []}
            assert kinds <= {"text"}, kinds
            found.append("".join(child.content for child in token.children or []))
        else:
            assert token.type.split("_")[0] in ("table", "thead", "tbody", "tr", "th", "td", "paragraph"), token.type
    return found


@given(CELLS)
@example([("a | b", "\\|"), ("`x|y`", "\\\\|"), ("<b>", "&lt;"), ("~~x~~", "![a](b)")])
def test_cells_of_a_table_are_read_back(lines: list[tuple[str, str]]) -> None:
    table = markdown_table(("one", "two"), [tuple(map(escape_markdown, line)) for line in lines])
    assert read(table) == ["one", "two", *(shown(cell) for line in lines for cell in line)]


@given(TEXTS)
def test_text_after_a_word_is_read_back(text: str) -> None:
    assert read(f"Speaker: {escape_markdown(text)}") == [f"Speaker: {shown(text)}".strip()]


def test_ordinary_sentences_stay_readable() -> None:
    text = "I'm fine (really) - it's 5.50, isn't it? Yes! See you at 9:30."
    assert escape_markdown(text) == text
