"""The sample that comes with the package: conversations, small lexicons, event triples and assertions, all CC0."""

from __future__ import annotations

from pathlib import Path

SAMPLE_TERMS = "CTSM sample: CC0 1.0"
FILES = {
    "dialogues": "dialogues.jsonl",
    "vad": "vad.txt",
    "events": "events.tsv",
    "emotion_words": "emotions.txt",
    "concepts": "assertions.csv",
}


def sample_path(role: str) -> Path:
    """Return the path of a sample file: "dialogues", "vad", "events", "emotion_words" or "concepts"."""
    return Path(__file__).parent / FILES[role]


def is_sample(path: Path) -> bool:
    """Tell whether a path is one of the package's own sample files."""
    return path.resolve().parent == Path(__file__).parent.resolve()
