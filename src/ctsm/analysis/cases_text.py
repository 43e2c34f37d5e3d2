"""Cases as Markdown and as a page. What people and systems said is shown as text, whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctsm.analysis.cases import Case
from ctsm.analysis.page import html_page
from ctsm.errors import CtsmError
from ctsm.evaluation.markdown import escape_markdown, markdown_table
from ctsm.files import atomic_file

ROLES = ("Speaker", "Listener")
SUFFIXES = (".md", ".html")
PERSON = "person"
EMPTY, NO_EMOTION, NO_LABEL = "(no word)", "no emotion", "no label"
NOTE = (
    "Greedy replies of each system. Beside them the emotions that it perceives as most probable; bold: the "
    "conversation's label."
)


def cases_markdown(cases: Sequence[Case]) -> str:
    """Return cases as Markdown: for each one the context, and a table with a row for each system."""
    parts = ["# Cases\n", f"{NOTE}\n"]
    for number, case in enumerate(cases, start=1):
        label = escape_markdown(case.emotion or NO_LABEL)
        parts.append(f"## {number}. {label} ({escape_markdown(case.id)})\n")
        turns = (f"> **{ROLES[place % 2]}:** {escape_markdown(turn)}\n" for place, turn in enumerate(case.context))
        parts.append(">\n".join(turns))
        lines = []
        if case.reference is not None:
            lines.append((f"*{PERSON}*", f"**{label}**" if case.emotion else label, escape_markdown(case.reference)))
        for answer in case.answers:
            perceived = ", ".join(_emotion(name, share, case.emotion) for name, share in answer.emotions) or NO_EMOTION
            lines.append((escape_markdown(answer.system), perceived, escape_markdown(answer.reply or EMPTY)))
        parts.append(markdown_table(("system", "perceives", "reply"), lines))
    return "\n".join(parts)


def cases_page(cases: Sequence[Case]) -> str:
    """Return cases as a page of cards that opens offline."""
    return html_page(
        "Cases",
        "cases.html",
        cases=cases,
        roles=ROLES,
        person=PERSON,
        empty=EMPTY,
        nothing=NO_EMOTION,
        unlabelled=NO_LABEL,
        note=NOTE,
    )


def _emotion(name: str, share: float, label: str | None) -> str:
    """Return an emotion with its probability; the label stands out."""
    return f"{f'**{name}**' if name == label else name} {100 * share:.0f} %"


def check_suffix(path: Path | None) -> None:
    """Check that cases can be written to a file of this name; None is the terminal.

    Raises:
        CtsmError: its suffix names no format.
    """
    if path is not None and path.suffix not in SUFFIXES:
        raise CtsmError(f"{path}: the suffix says the format; end the name in {' or '.join(SUFFIXES)}.")


def write_cases(cases: Sequence[Case], path: Path | None) -> None:
    """Write cases in the format of the file's suffix and print its name; without a file, print Markdown."""
    html = path is not None and path.suffix == ".html"
    text = cases_page(cases) if html else cases_markdown(cases)
    content = text.encode("utf-8", errors="replace")  # half of a surrogate pair cannot be written
    if path is None:
        print(content.decode(), end="")
        return
    with atomic_file(path, "wb") as stream:
        stream.write(content)
    print(f"{path}: {len(cases)} cases")
