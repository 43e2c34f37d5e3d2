"""The order in which figures show the 32 emotions: similar ones side by side, from pleasant to unpleasant."""

from __future__ import annotations

from typing import Final

from ctsm.corpus.emotions import EMOTION_INDEX

PLEASANT: Final = (
    "joyful",
    "excited",
    "grateful",
    "proud",
    "impressed",
    "confident",
    "content",
    "trusting",
    "faithful",
    "caring",
    "hopeful",
    "anticipating",
    "prepared",
    "sentimental",
    "nostalgic",
    "surprised",
)
UNPLEASANT: Final = (
    "apprehensive",
    "anxious",
    "afraid",
    "terrified",
    "lonely",
    "sad",
    "disappointed",
    "devastated",
    "embarrassed",
    "ashamed",
    "guilty",
    "jealous",
    "annoyed",
    "angry",
    "furious",
    "disgusted",
)
DISPLAYED: Final = (*PLEASANT, *UNPLEASANT)
DISPLAYED_INDEX: Final = tuple(EMOTION_INDEX[emotion] for emotion in DISPLAYED)
"""Ids of the emotions in the order of `DISPLAYED`."""
