"""A study as a Potato project: configuration, items, and the state file of each annotator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ctsm.files import atomic_directory
from ctsm.judging.exports import Comparison, comparisons, turns
from ctsm.judging.study import ASPECTS, Judgement, Study, Verdict

SCHEME = "comparison"
VALUES: dict[Verdict, str] = {"win": "A", "tie": "tie", "lose": "B"}


def write_project(study: Study, judgements: Sequence[Judgement], folder: Path) -> list[Path]:
    """Write the project as a new folder, which appears when it is complete, and return it."""
    compared = comparisons(study, judgements)
    with atomic_directory(folder) as new:
        (new / "config.yaml").write_text(
            yaml.safe_dump(configuration(study.aspects), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        (new / "data").mkdir()
        items = "".join(json.dumps(_item(one), ensure_ascii=False) + "\n" for one in compared)
        (new / "data" / "items.jsonl").write_text(items, encoding="utf-8", newline="\n")
        for annotator in study.annotators:
            home = new / "annotation_output" / f"annotator-{annotator}"
            home.mkdir(parents=True)
            state = json.dumps(_state(study, compared, annotator), ensure_ascii=False, indent=2)
            (home / "user_state.json").write_text(f"{state}\n", encoding="utf-8")
    return [folder]


def configuration(aspects: Sequence[str]) -> dict[str, Any]:
    """Return Potato's configuration: one pairwise scheme with a dimension for each aspect."""
    return {
        "annotation_task_name": "Which reply is better?",
        "task_dir": ".",
        "data_files": ["data/items.jsonl"],
        "item_properties": {"id_key": "id", "text_key": "text"},
        "output_annotation_dir": "annotation_output",
        "user_config": {"allow_all_users": True},
        "instance_display": {"fields": [{"key": "conversation", "type": "dialogue", "label": "Conversation"}]},
        "annotation_schemes": [
            {
                "annotation_type": "pairwise",
                "name": SCHEME,
                "description": "Which reply is better?",
                "mode": "multi_dimension",
                "items_key": "replies",
                "labels": ["Reply A", "Reply B"],
                "dimensions": [
                    {"name": aspect, "description": ASPECTS[aspect], "allow_tie": True} for aspect in aspects
                ],
            }
        ],
    }


def _item(one: Comparison) -> dict[str, Any]:
    """Return an item; Potato shows the conversation and the replies, never the other fields."""
    trial = one.trial
    said = turns(trial.context)
    return {
        "id": str(one.number),
        "text": "\n".join(f"{who}: {text}" for who, text in said),
        "conversation": [{"speaker": who, "text": text} for who, text in said],
        "replies": [trial.reply_a, trial.reply_b],
        "pair": one.pair.name,
        "system_a": one.pair.a,
        "system_b": one.pair.b,
        "item": trial.item,
        "catch": trial.catch,
    }


def _state(study: Study, compared: Sequence[Comparison], annotator: str) -> dict[str, Any]:
    """Return what Potato keeps of an annotator: the labels of each item as pairs of name and value."""
    return {
        "user_id": f"annotator-{annotator}",
        "instance_id_to_label_to_value": {
            str(one.number): [
                [{"schema": SCHEME, "name": aspect}, VALUES[one.verdicts[annotator][aspect]]]
                for aspect in study.aspects
                if aspect in one.verdicts[annotator]
            ]
            for one in compared
            if annotator in one.verdicts
        },
        "instance_id_to_span_to_value": {},
    }
