"""Exports, read back by readers of their formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.judging.exports import HEADER, comparisons, export, harmless
from ctsm.judging.label_studio import labelling_configuration
from ctsm.judging.study import ASPECTS, Judgement, Pair, Study

Judged = Callable[..., tuple[Study, list[Judgement]]]
Built = tuple[Study, list[Judgement]]

FORMULA = '=HYPERLINK("http://example.org","Click")'
NASTY = 'He said "no", <b>then</b>\nleft; 1 € & 50 %'


@pytest.fixture(scope="module")
def built(judged: Judged) -> Built:
    """Two pairs, three annotators, one judgement missing, a catch trial, and texts that are hard to write."""
    study, judgements = judged(
        {
            "P": {"empathy": ["WTL", "WW."], "fluency": ["TTT", "LLW"]},
            "Q": {"empathy": ["LLL", "WWW"], "fluency": ["WTL", "WTL"]},
        },
        {"empathy": ["WWL"], "fluency": ["TTT"]},
    )
    trials = [
        replace(trial, reply_a=FORMULA, reply_b=NASTY, context=("Hi.", "Hello?", "I won!"))
        if trial.pair == "P"
        else trial
        for trial in study.trials
    ]
    pairs = (Pair(name="P", a="+ctsm", b="cem"), study.pairs[1])
    return replace(study, trials=tuple(trials), pairs=pairs), judgements


def as_judged(built: Built) -> set[tuple[str, str, bool, str, str, str]]:
    """What every export must hold: pair, item, catch, annotator, aspect, verdict."""
    return {(one.pair, one.item, one.catch, one.annotator, one.aspect, one.verdict) for one in built[1]}


def test_csv_has_one_judgement_a_row(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "new" / "judgements.csv"
    assert export(*built, "csv", out) == [out]
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == HEADER
    assert len(rows) == len(built[1])
    assert {
        (row["pair"], row["item"], row["catch"] == "1", row["annotator"], row["aspect"], row["verdict"]) for row in rows
    } == as_judged(built)
    trials = {trial.id: trial for trial in built[0].trials}
    for row in rows:
        trial = trials[row["trial"]]
        assert (row["left"], int(row["place"])) == (trial.left, trial.place)
        assert row["context"] == "\n".join(trial.context)
        if row["pair"] == "P":
            assert (row["system_a"], row["system_b"]) == ("'+ctsm", "cem")
            assert (row["reply_a"], row["reply_b"]) == (f"'{FORMULA}", NASTY)
        if row["catch"] == "1":
            assert (row["pair"], row["system_a"], row["system_b"]) == ("", "", "")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'quoted", ""])  # noqa: RUF001
def test_formulas_are_made_harmless(text: str) -> None:
    assert harmless(text) == (f"'{text}" if text else "")


@given(st.text(max_size=20) | st.text(st.sampled_from("=+-@\t'a"), max_size=4))
def test_what_was_made_harmless_can_be_restored(text: str) -> None:
    written = harmless(text)
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (written[1:] if written.startswith("'") else written) == text


def test_ids_stay_intact(judged: Judged, tmp_path: Path) -> None:
    study, judgements = judged({"P": {"empathy": ["W"]}})
    study = replace(study, items=("=c1",), trials=tuple(replace(trial, item="=c1") for trial in study.trials))
    export(study, [replace(one, item="=c1") for one in judgements], "csv", tmp_path / "j.csv")
    with (tmp_path / "j.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["item"] for row in csv.DictReader(stream)] == ["=c1"]


def test_each_comparison_is_one_for_all_annotators(built: Built) -> None:
    found = comparisons(*built)
    assert [one.number for one in found] == [1, 2, 3, 4, 5]
    assert [(one.trial.pair, one.trial.item, one.trial.catch) for one in found] == [
        ("P", "c0#1", False),
        ("P", "c1#1", False),
        ("Q", "c0#1", False),
        ("Q", "c1#1", False),
        ("", "c0#1", True),
    ]
    assert found[1].verdicts["3"] == {"fluency": "win"}


def test_label_studio_tasks_fit_their_configuration(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "tasks.json"
    assert export(*built, "label-studio", out) == [out, tmp_path / "tasks.xml"]
    view = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    groups = {tag.get("name"): tag for tag in view.iter("Choices")}
    objects = {tag.get("name"): tag for tag in (*view.iter("Paragraphs"), *view.iter("Text"))}
    choices = {name: [choice.get("value") for choice in tag.iter("Choice")] for name, tag in groups.items()}
    assert choices == {"empathy": ["Reply A", "Tie", "Reply B"], "fluency": ["Reply A", "Tie", "Reply B"]}
    verdict = dict(zip(["Reply A", "Tie", "Reply B"], ["win", "tie", "lose"], strict=True))
    tasks: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    held, regions = set(), list[str]()
    for task in tasks:
        data = task["data"]
        assert {str(tag.get("value")).removeprefix("$") for tag in objects.values()} <= set(data)
        assert all(set(turn) == {"author", "text"} for turn in data["context"])
        assert len(data["annotators"]) == len(task["annotations"])
        for annotator, annotation in zip(data["annotators"], task["annotations"], strict=True):
            for region in annotation["result"]:
                group = groups[region["from_name"]]
                assert region["type"] == "choices"
                assert region["to_name"] == group.get("toName")
                assert region["to_name"] in objects
                (chosen,) = region["value"]["choices"]
                regions.append(region["id"])
                held.add((data["pair"], data["item"], data["catch"], annotator, region["from_name"], verdict[chosen]))
    assert held == as_judged(built)
    assert len(set(regions)) == len(regions) == len(built[1])
    assert tasks[0]["data"]["reply_a"] == FORMULA
    assert [turn["author"] for turn in tasks[0]["data"]["context"]] == ["Speaker", "Listener", "Speaker"]
    assert (tasks[0]["data"]["system_a"], tasks[0]["data"]["system_b"]) == ("+ctsm", "cem")


def test_the_labelling_configuration_asks_what_annotators_read() -> None:
    view = ElementTree.fromstring(labelling_configuration(["empathy", "relevance", "fluency"]))
    headers = [tag.get("value") for tag in view.iter("Header")]
    assert headers == ["Reply A", "Reply B", *(ASPECTS[name] for name in ("empathy", "relevance", "fluency"))]


def test_a_potato_project_holds_configuration_items_and_states(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "project"
    assert export(*built, "potato", out) == [out]
    config = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    (data_file,) = config["data_files"]
    items = [json.loads(line) for line in (out / data_file).read_text(encoding="utf-8").split("\n") if line]
    by_id = {item[config["item_properties"]["id_key"]]: item for item in items}
    assert len(by_id) == len(items) == 5
    (scheme,) = config["annotation_schemes"]
    assert scheme["mode"] == "multi_dimension"
    assert [(one["name"], one["allow_tie"]) for one in scheme["dimensions"]] == [("empathy", True), ("fluency", True)]
    shown = {field["key"] for field in config["instance_display"]["fields"]} | {scheme["items_key"]}
    assert shown == {"conversation", "replies"}  # and so never a system's name
    assert by_id["1"]["replies"] == [FORMULA, NASTY]
    assert by_id["1"]["text"] == "Speaker: Hi.\nListener: Hello?\nSpeaker: I won!"
    verdict = {"A": "win", "tie": "tie", "B": "lose"}
    held = set()
    for path in (out / config["output_annotation_dir"]).glob("*/user_state.json"):
        state = json.loads(path.read_text(encoding="utf-8"))
        assert state["user_id"] == path.parent.name
        for number, labels in state["instance_id_to_label_to_value"].items():
            item = by_id[number]
            for label, value in labels:
                assert label["schema"] == scheme["name"]
                annotator = state["user_id"].removeprefix("annotator-")
                held.add((item["pair"], item["item"], item["catch"], annotator, label["name"], verdict[value]))
    assert held == as_judged(built)


def test_a_study_without_judgements_is_exported(built: Built, tmp_path: Path) -> None:
    study, _ = built
    export(study, [], "csv", tmp_path / "j.csv")
    assert (tmp_path / "j.csv").read_text(encoding="utf-8") == ",".join(HEADER) + "\n"
    export(study, [], "label-studio", tmp_path / "t.json")
    assert [task["annotations"] for task in json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))] == [[]] * 5
    export(study, [], "potato", tmp_path / "p")
    assert len(list((tmp_path / "p" / "annotation_output").glob("annotator-*/user_state.json"))) == 3


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [
        ("csv", "folder", "folder: exists already"),
        ("csv", "file", "file: exists already"),
        ("csv", "link", "link: exists already"),
        ("label-studio", "folder", "folder: exists already"),
        ("label-studio", "file", "file: exists already"),
        ("label-studio", "kept.json", "kept.xml: exists already"),
        ("label-studio", "tasks.xml", "give a .json file"),
        ("potato", "folder", "exists already"),
        ("potato", "file", "exists already"),
    ],
)
def test_places_that_cannot_be_taken_stay_as_they_are(
    built: Built, tmp_path: Path, form: str, name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    for kept in ("file", "kept.xml"):
        (tmp_path / kept).write_text("kept")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(CtsmError, match=message):
        export(*built, form, tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "kept.xml", "link"]
    assert (tmp_path / "file").read_text() == (tmp_path / "kept.xml").read_text() == "kept"
    assert (tmp_path / "link").is_symlink()
