"""`ctsm evaluate --report`: agrees with the evaluation, opens offline, is made only where there are emotions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ctsm.cli.main import main
from ctsm.corpus.emotions import EMOTIONS
from ctsm.evaluation.records import read_record
from ctsm.evaluation.replies import read_replies

pytest.importorskip("matplotlib")

FILES = ("index.html", "emotions.json", "confusion.svg", "per-emotion.svg", "calibration.svg", "accuracy.svg")


@pytest.fixture(scope="module")
def model(prepared: Path, save_untrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("report") / "model", prepared)


@pytest.fixture(scope="module")
def reported(model: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the usual files in "out" and the report in "report", where another file was before."""
    folder = tmp_path_factory.mktemp("reported")
    (folder / "report").mkdir()
    (folder / "report/notes.txt").write_text("mine", encoding="utf-8")
    (folder / "report/index.html").write_text("an earlier report", encoding="utf-8")
    arguments = [str(model), "--data", str(prepared), "--split", "train", "--out", str(folder / "out")]
    assert main(["evaluate", *arguments, "--report", str(folder / "report")]) == 0
    return folder


def test_the_numbers_agree_with_the_record_and_the_replies(reported: Path) -> None:
    report = json.loads((reported / "report/emotions.json").read_text(encoding="utf-8"))
    record = read_record(reported / "out/train.json")
    replies = read_replies(reported / "out/train.replies.jsonl")
    for name in ("model", "seed", "split", "n", "acc", "top3", "top5", "data_fingerprint", "created"):
        assert report[name] == getattr(record, name)
    assert report["acc_interval"] == vars(record.acc_interval)
    assert report["conversations"] == len({reply.conversation_id for reply in replies})
    assert report["emotions"] == list(EMOTIONS)
    assert sorted(report["order"]) == sorted(EMOTIONS)
    for row, label in zip(report["confusion"], EMOTIONS, strict=True):
        said = [reply.predicted for reply in replies if reply.emotion == label]
        assert row == [said.count(name) for name in EMOTIONS]
    turns: dict[str, list[bool]] = {}
    for reply in replies:
        turn = sum(place % 2 == 0 for place in range(len(reply.context)))
        turns.setdefault(str(turn), []).append(reply.emotion == reply.predicted)
    assert len(turns) > 1
    assert {one["name"]: one["n"] for one in report["by_turn"]} == {name: len(found) for name, found in turns.items()}
    for one in report["by_turn"]:
        assert one["acc"] == pytest.approx(100 * sum(turns[one["name"]]) / one["n"])
    assert sum(one["n"] for one in report["by_length"]) == record.n


def test_only_its_own_files_are_replaced(reported: Path) -> None:
    folder = reported / "report"
    assert {path.name for path in folder.iterdir()} == {*FILES, "notes.txt"}
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert "an earlier report" not in (folder / "index.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects what a page loads, its tags, and its text by cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and not (value or "").startswith("#"):
                self.loaded.append(f"{tag} {name}={value}")
            assert not name.startswith("on")
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_the_page_opens_offline_and_shows_every_figure(reported: Path) -> None:
    text = (reported / "report/index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.loaded == []
    assert page.tags.count("svg") == 4
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert "default-src 'none'" in text
    assert not re.findall(r"url\((?!#)", text)
    identities = re.findall(r'\sid="([^"]+)"', text)
    assert len(identities) == len(set(identities))


def test_an_undefined_precision_is_a_dash(reported: Path) -> None:
    report = json.loads((reported / "report/emotions.json").read_text(encoding="utf-8"))
    cells = Page((reported / "report/index.html").read_text(encoding="utf-8")).cells
    never = [one for one in report["per_emotion"] if one["n"] and not one["predicted"]]
    assert never, "an untrained model does not know all emotions"
    for one in never:
        assert one["precision"] is None
        rows = [cells[place : place + 6] for place, cell in enumerate(cells) if cell == one["emotion"]]
        assert [one["emotion"], str(one["n"]), "0", "-", "0.0", "0.0"] in [
            [cell.strip() for cell in row] for row in rows
        ]


def test_the_figures_name_all_emotions_and_their_units(reported: Path) -> None:
    texts = {}
    for name in ("confusion", "per-emotion", "calibration", "accuracy"):
        root = ElementTree.parse(reported / f"report/{name}.svg").getroot()
        texts[name] = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(EMOTIONS) <= set(texts["confusion"])
    assert set(EMOTIONS) <= {text.split(" (")[0] for text in texts["confusion"] if "(" in text}
    assert "share of the label's examples (%)" in texts["confusion"]
    assert set(EMOTIONS) <= set(texts["per-emotion"])
    assert {"Acc (%)", "examples"} <= set(texts["calibration"])
    assert {"Acc (%)", "words in the context"} <= set(texts["accuracy"])


def test_a_second_report_is_the_same(model: Path, prepared: Path, reported: Path, tmp_path: Path) -> None:
    arguments = [str(model), "--data", str(prepared), "--split", "train", "--out", str(tmp_path / "out")]
    assert main(["evaluate", *arguments, "--report", str(tmp_path)]) == 0
    for name in FILES[2:]:
        assert (tmp_path / name).read_bytes() == (reported / "report" / name).read_bytes()


def test_a_model_without_emotions_is_refused_before_it_is_scored(
    prepared: Path, save_untrained: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = save_untrained(tmp_path / "plain", prepared, model="transformer")
    arguments = ["evaluate", str(plain), "--data", str(prepared), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--report", str(tmp_path / "report")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, "no word of scoring before it"
    assert "its model (transformer) predicts no emotion" in error
    assert not (tmp_path / "out").exists() and not (tmp_path / "report").exists()
    assert main(arguments) == 0, "without a report it is evaluated"


def test_a_file_in_the_place_of_the_folder_is_refused_first(
    model: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").write_text("", encoding="utf-8")
    arguments = [str(model), "--data", str(prepared), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *arguments, "--report", str(tmp_path / "report")]) == 2
    assert "report: is a file, but a report needs a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
