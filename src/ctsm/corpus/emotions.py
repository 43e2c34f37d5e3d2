"""The 32 emotion labels of EmpatheticDialogues, in the order that every published model of the lineage uses."""

from __future__ import annotations

from typing import Final

# Not alphabetical: checkpoints, confusion matrices and state maps depend on this order.
EMOTIONS: Final[tuple[str, ...]] = (
    "surprised",
    "excited",
    "annoyed",
    "proud",
    "angry",
    "sad",
    "grateful",
    "lonely",
    "impressed",
    "afraid",
    "disgusted",
    "confident",
    "terrified",
    "hopeful",
    "anxious",
    "disappointed",
    "joyful",
    "prepared",
    "guilty",
    "furious",
    "nostalgic",
    "jealous",
    "anticipating",
    "embarrassed",
    "content",
    "devastated",
    "sentimental",
    "caring",
    "trusting",
    "ashamed",
    "apprehensive",
    "faithful",
)

EMOTION_INDEX: Final[dict[str, int]] = {label: index for index, label in enumerate(EMOTIONS)}
