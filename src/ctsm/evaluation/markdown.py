"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_AS_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", "|": "&#124;"} | {mark: f"\\{mark}" for mark in "\\`*_[]>~$#"})
"""Entities where a backslash would not do: not every reader takes it in a table, and `markdown_table` adds its own."""


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a cell is put on one line, and what would end it or open HTML is made harmless."""
    rule = ["---"] * len(header)
    rows = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in (header, rule, *lines)]
    return "\n".join(rows) + "\n"


def escape_markdown(text: str) -> str:
    """Return what Markdown shows as this text, on one line; it can also be a cell of `markdown_table`."""
    return " ".join(text.split()).translate(_AS_TEXT)


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;")
