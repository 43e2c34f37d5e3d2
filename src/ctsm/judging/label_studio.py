"""A study as Label Studio tasks: its JSON format (`data` and `annotations`) and a labelling configuration.

Label Studio's tag for two objects (`Pairwise`) knows no tie, so each aspect is a `Choices` of three.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from ctsm.errors import CtsmError
from ctsm.files import atomic_file, write_json
from ctsm.judging.exports import Comparison, comparisons, turns
from ctsm.judging.places import require_nothing_at
from ctsm.judging.study import ASPECTS, Judgement, Study, Verdict

CHOICES: dict[Verdict, str] = {"win": "Reply A", "tie": "Tie", "lose": "Reply B"}


def write_tasks(study: Study, judgements: Sequence[Judgement], out: Path) -> list[Path]:
    """Write the tasks, and the configuration beside them with the suffix .xml, each atomically.

    Raises:
        CtsmError: the tasks themselves would be the .xml file, or something stands there.
    """
    configuration = out.with_suffix(".xml")
    if configuration == out:
        raise CtsmError(
            f"{out}: the tasks are JSON, and the configuration takes the name with .xml; give a .json file."
        )
    require_nothing_at([configuration])
    with atomic_file(configuration) as stream:
        stream.write(labelling_configuration(study.aspects))
    write_json(out, [_task(one, study.aspects) for one in comparisons(study, judgements)])
    return [out, configuration]


def labelling_configuration(aspects: Sequence[str]) -> str:
    """Return the XML of the labelling interface; reply A always stands on the left."""
    view = ET.Element("View")
    ET.SubElement(
        view, "Paragraphs", name="context", value="$context", layout="dialogue", nameKey="author", textKey="text"
    )
    replies = ET.SubElement(view, "View", style="display: grid; grid-template-columns: 1fr 1fr; column-gap: 1em")
    for key, title in (("reply_a", CHOICES["win"]), ("reply_b", CHOICES["lose"])):
        side = ET.SubElement(replies, "View")
        ET.SubElement(side, "Header", value=title)
        ET.SubElement(side, "Text", name=key, value=f"${key}", valueType="text")
    for aspect in aspects:
        ET.SubElement(view, "Header", value=ASPECTS[aspect])
        group = ET.SubElement(
            view, "Choices", name=aspect, toName="context", choice="single-radio", showInline="true", required="true"
        )
        for choice in CHOICES.values():
            ET.SubElement(group, "Choice", value=choice)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def _task(one: Comparison, aspects: Sequence[str]) -> dict[str, Any]:
    """Return a task; `annotators` names who made each of its annotations, in their order."""
    trial = one.trial
    return {
        "data": {
            "comparison": one.number,
            "pair": one.pair.name,
            "system_a": one.pair.a,
            "system_b": one.pair.b,
            "item": trial.item,
            "catch": trial.catch,
            "context": [{"author": who, "text": text} for who, text in turns(trial.context)],
            "reply_a": trial.reply_a,
            "reply_b": trial.reply_b,
            "annotators": list(one.verdicts),
        },
        "annotations": [
            {
                "was_cancelled": False,
                "ground_truth": False,
                "result": [
                    {
                        "id": f"{one.number}-{annotator}-{aspect}",
                        "from_name": aspect,
                        "to_name": "context",
                        "type": "choices",
                        "origin": "manual",
                        "value": {"choices": [CHOICES[verdicts[aspect]]]},
                    }
                    for aspect in aspects
                    if aspect in verdicts
                ],
            }
            for annotator, verdicts in one.verdicts.items()
        ],
    }
