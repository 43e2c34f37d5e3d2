"""Where a row is off, the tables name the experiment that explains it, or say that none does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ctsm.errors import CtsmError
from ctsm.evaluation.groups import group_records
from ctsm.evaluation.notes import UNKNOWN, Note, explanation, markdown_link, read_notes
from ctsm.evaluation.paper import TABLE_1, TABLES
from ctsm.evaluation.records import ResultRecord, write_record
from ctsm.evaluation.tables import README_BEGIN, README_END, write_tables

Builder = Callable[..., ResultRecord]
CTSM = TABLE_1[-1]
LONG = Note(row="CTSM", iterations=6000, experiment="shorter training", link="#curve")
OTHER = Note(row="CEM", iterations=None, experiment="other", link="x.md")


def explained(record: ResultRecord, notes: list[Note]) -> Note | str:
    (group,) = group_records({Path("a.json"): record})
    return explanation(CTSM, group, notes)


@pytest.mark.parametrize(
    ("acc", "ppl", "far"),
    [(42.41, 35.56, False), (42.42, 33.57, False), (42.40, 34.56, True), (43.41, 35.57, True), (45.0, 30.0, True)],
)
def test_more_than_one_point_needs_an_explanation(record: Builder, acc: float, ppl: float, far: bool) -> None:
    found = explained(record(split="test", acc=acc, ppl_example=ppl), [])
    assert found == (UNKNOWN if far else "")


def test_a_note_is_for_its_row_and_length(record: Builder) -> None:
    notes = [OTHER, LONG, Note(row="CTSM", iterations=None, experiment="any", link="y.md")]
    assert explained(record(split="test", iterations=6000), notes) is LONG
    assert explained(record(split="test", iterations=20_000), notes) is notes[2]
    assert explained(record(split="test", iterations=20_000), notes[:2]) == UNKNOWN


def test_a_model_without_emotions_is_judged_by_its_perplexity(record: Builder) -> None:
    bare = record(split="test", model="transformer", acc=None, top3=None, top5=None, ppl_example=37.0)
    (group,) = group_records({Path("a.json"): bare})
    assert explanation(TABLE_1[0], group, []) == ""


def test_links_lead_from_the_document_that_shows_them() -> None:
    tables, folder, readme = Path("docs/results/README.md"), Path("docs/results"), Path("README.md")
    assert markdown_link(LONG, tables, tables, folder) == "[shorter training](#curve)"
    assert markdown_link(LONG, readme, tables, folder) == "[shorter training](docs/results/README.md#curve)"
    assert markdown_link(OTHER, tables, tables, folder) == "[other](x.md)"
    assert markdown_link(OTHER, readme, tables, folder) == "[other](docs/results/x.md)"
    web = Note(row="CEM", iterations=None, experiment="e", link="https://example.org/x")
    assert markdown_link(web, readme, tables, folder) == "[e](https://example.org/x)"
    assert markdown_link(UNKNOWN, readme, tables, folder) == "not known"


def test_the_tables_and_the_readme_show_the_note(tmp_path: Path, record: Builder) -> None:
    folder, readme = tmp_path / "docs" / "results", tmp_path / "README.md"
    write_record(folder / "a.json", record(split="test", options={}, iterations=6000))
    (folder / "notes.yaml").write_text("- row: CTSM\n  experiment: shorter training\n  link: '#curve'\n")
    readme.write_text(f"{README_BEGIN}\n{README_END}\n", encoding="utf-8")
    write_tables(folder, folder / "README.md", readme)
    assert "| [shorter training](#curve) |" in (folder / "README.md").read_text(encoding="utf-8")
    assert "| [shorter training](docs/results/README.md#curve) |" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row: CTSM", r"notes\.yaml: must be a list"),
        ("- CTSM", r"notes\.yaml, note 1: must be a JSON object"),
        ("- {row: CTSM, link: x}", r"note 1: the field 'experiment' is missing"),
        ("- {row: CTSM, link: x, experiment: e, why: f}", r"note 1: unknown field 'why'"),
        ("- {row: CTSM, link: x, experiment: e, iterations: many}", r"'iterations' must be an integer"),
        ("- [", r"notes\.yaml: not readable as YAML"),
    ],
)
def test_wrong_notes_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "notes.yaml").write_text(text)
    with pytest.raises(CtsmError, match=message):
        read_notes(tmp_path)


def test_notes_may_be_missing_or_empty(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == []
    (tmp_path / "notes.yaml").write_text("# nothing yet\n")
    assert read_notes(tmp_path) == []


def test_the_notes_that_come_along_lead_somewhere() -> None:
    folder = Path(__file__).parents[2] / "docs" / "results"
    headings = re.findall(r"^#+ (.*)$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    labels = {row.label for rows in TABLES.values() for row in rows}
    for note in read_notes(folder):
        assert note.row in labels
        if note.link.startswith("#"):
            assert note.link[1:] in anchors
        elif "://" not in note.link:
            assert (folder / note.link.partition("#")[0]).exists()
