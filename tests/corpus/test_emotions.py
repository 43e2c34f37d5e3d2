from __future__ import annotations

from ctsm.corpus.emotions import EMOTION_INDEX, EMOTIONS


def test_order_of_the_lineage() -> None:
    assert len(EMOTIONS) == len(set(EMOTIONS)) == 32
    landmarks = {0: "surprised", 5: "sad", 11: "confident", 15: "disappointed", 22: "anticipating", 31: "faithful"}
    assert {index: EMOTIONS[index] for index in landmarks} == landmarks
    assert all(EMOTION_INDEX[label] == index for index, label in enumerate(EMOTIONS))
