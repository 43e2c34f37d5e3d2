from __future__ import annotations

import gzip
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.knowledge.events import read_events, readable_phrase
from ctsm.knowledge.inference import RELATIONS

LINES = (
    "PersonX loses a dog\txReact\tsad\n"
    "PersonX loses a dog\txAttr\tcareless\n"
    "PersonX loses a dog\txReact\tnone\n"
    "PersonX loses a dog\txReact\t\n"
    "PersonX loses a dog\txWant\tto search the park\n"
    "PersonX loses a dog\txWant\tsearch the park\n"
    "PersonX sees a bird\toReact\thappy\n"
    "PersonX feeds a cat\txReact\tKind.\n"
    "PersonX loses a dog\txReact\tworried\n"
    "\n"
)
EXPECTED = {
    "PersonX loses a dog": ((), (), ("to search the park",), (), ("sad", "worried")),
    "PersonX feeds a cat": ((), (), (), (), ("kind",)),
}


def test_plain_gzip_and_zip(tmp_path):
    (tmp_path / "a.tsv").write_text(LINES)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(LINES.encode()))
    middle = LINES.index("PersonX feeds")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data/dev.tsv", LINES[:middle])
        archive.writestr("data/test.tsv", LINES[middle:])
        archive.writestr("data/readme.md", "no\ttriples")
    for name in ("a.tsv", "a.tsv.gz", "a.zip"):
        assert read_events(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("tail", "phrase"),
    [
        ("PersonX thanks PersonY's friend.", "thanks their friend"),
        ("to make PersonY happy", "to make them happy"),
        ("person x is  tired", "tired"),
        ("They are glad", "glad"),
        ("TO SEE a film", "to see a film"),
        ("the theyre", "the theyre"),
        ("None", ""),
        ("no effect", ""),
        (" . ", ""),
        ("gets ___ back", "gets back"),
    ],
)
def test_readable_phrase(tail, phrase):
    assert readable_phrase(tail) == phrase


TEXT = st.text(alphabet="abc ", min_size=1, max_size=6).map(lambda text: f"q{text}y")


@given(st.lists(st.tuples(TEXT, st.sampled_from((*RELATIONS, "xAttr")), TEXT), max_size=12))
def test_agrees_with_a_plain_grouping(tmp_path_factory, triples):
    path = tmp_path_factory.mktemp("events") / "a.tsv"
    path.write_text("".join("\t".join(triple) + "\n" for triple in triples))
    heads = [head.strip() for head, relation, _ in triples if relation in RELATIONS]
    if not heads:
        with pytest.raises(CtsmError, match="holds no event"):
            read_events(path)
        return
    events = read_events(path)
    assert list(events) == list(dict.fromkeys(heads))
    for head, relations in events.items():
        for relation, phrases in zip(RELATIONS, relations, strict=True):
            tails = [" ".join(tail.split()) for first, name, tail in triples if (first, name) == (head, relation)]
            assert list(phrases) == list(dict.fromkeys(tails))


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("PersonX sings\txReact\thappy\nPersonX sings xReact happy\n")
    with pytest.raises(CtsmError, match=r"a.tsv, line 2: 1 tab-separated fields, expected head, relation, tail"):
        read_events(path)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"PersonX sings\txReact\tcaf\xe9\n")
    with pytest.raises(CtsmError, match="line 1: not UTF-8"):
        read_events(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CtsmError, match="no such file"):
        read_events(tmp_path / "a.tsv")
