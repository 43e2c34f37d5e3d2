"""Reading ATOMIC: events with the phrases that people gave for each relation."""

from __future__ import annotations

import re
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.knowledge.inference import RELATIONS
from ctsm.knowledge.lines import place, text_lines, zip_members

PURPOSE = "the ATOMIC file"
Events = dict[str, tuple[tuple[str, ...], ...]]
"""Event -> for each of RELATIONS its distinct phrases in the order of the file."""

_NOTHING = frozenset(("", "none", "no effect", "nothing", "n/a"))
_SUBJECT = re.compile(r"^(?:person ?x|he|she|they|x)(?: (?:is|are))? ")
_POSSESSOR = re.compile(r"\bperson ?[xyz] ?'s\b")
_PERSON = re.compile(r"\bperson ?[xyz]\b")


def readable_phrase(tail: str) -> str:
    """Return an ATOMIC tail in lower case without its subject and with people as "them", or "" if it says nothing.

    "PersonX thanks PersonY's friend." -> "thanks their friend"
    """
    text = " ".join(tail.lower().replace("_", " ").split()).rstrip(" .")
    text = _SUBJECT.sub("", text)
    text = _PERSON.sub("them", _POSSESSOR.sub("their", text))
    return "" if text in _NOTHING else text


def read_events(path: Path) -> Events:
    """Read the phrases of every event; events without a phrase in any of RELATIONS are left out.

    Of phrases that differ in a leading "to" only ("go home", "to go home") an event keeps the first.

    Args:
        path: tab-separated head, relation, tail in UTF-8, as ATOMIC-2020 is; plain, .gz, or a .zip, of which all
            .tsv members are read. Lines of other relations are skipped.

    Raises:
        CtsmError: naming the line, for another number of fields; or the file is missing, damaged or has no event.
    """
    members: list[str | None] = [None]
    if path.suffix == ".zip":
        members = [name for name in zip_members(path, PURPOSE) if name.endswith(".tsv")]
    order = {relation: index for index, relation in enumerate(RELATIONS)}
    found: dict[str, tuple[dict[str, str], ...]] = {}
    for member in members:
        for number, line in text_lines(path, PURPOSE, member):
            if not line.strip():
                continue
            fields = line.split("\t")
            if len(fields) != 3:
                raise CtsmError(
                    f"{place(path, number, member)}: {len(fields)} tab-separated fields, expected head, relation, "
                    "tail; give a file in ATOMIC-2020's format."
                )
            relation = order.get(fields[1].strip())
            phrase = readable_phrase(fields[2]) if relation is not None else ""
            if relation is not None and phrase:
                phrases = found.setdefault(fields[0].strip(), tuple({} for _ in RELATIONS))[relation]
                phrases.setdefault(phrase.removeprefix("to "), phrase)
    if not found:
        wanted = ", ".join(RELATIONS)
        raise CtsmError(f"{path}: holds no event with any of {wanted}; give a file in ATOMIC-2020's format.")
    return {head: tuple(tuple(phrases.values()) for phrases in relations) for head, relations in found.items()}
