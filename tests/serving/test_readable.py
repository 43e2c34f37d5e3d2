"""Pieces of a reply join to exactly its text, cut where a stop string is complete."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.serving.readable import ReadableReply
from ctsm.text.detokenise import Detokeniser, detokenise

words = st.sampled_from(
    ["i", "am", "a", "ab", "abc", "b", "!", ".", ":", ")", "(", ";", "n't", "do", "``", "''", "'", "$"]
)
stop_strings = st.lists(st.text(alphabet="aAbBcI .:!()", min_size=1, max_size=4), max_size=3)


def cut(tokens: list[str], stops: list[str]) -> tuple[str, bool]:
    """Say it by its definition: the shortest beginning that holds a stop string, up to there."""
    detokeniser = Detokeniser()
    text = ""
    for piece in [*map(detokeniser.push, tokens), None]:
        text += detokeniser.finish() if piece is None else piece
        places = [text.index(stop) for stop in stops if stop in text]
        if places:
            return text[: min(places)], True
    return text, False


@given(tokens=st.lists(words, max_size=12), stops=stop_strings)
def test_pieces_join_to_the_text_up_to_the_first_stop_string(tokens: list[str], stops: list[str]) -> None:
    reply = ReadableReply(stops)
    shown = ""
    for token in tokens:
        shown += reply.push(token)
        assert shown == reply.text
        assert not any(stop in shown for stop in stops)
        if reply.stopped:
            break
    shown += reply.finish()
    assert (shown, reply.stopped) == cut(tokens, stops)
    assert reply.text == shown


@given(tokens=st.lists(words, max_size=12))
def test_without_stop_strings_nothing_is_held_back(tokens: list[str]) -> None:
    reply, detokeniser = ReadableReply(), Detokeniser()
    assert [reply.push(token) for token in tokens] == [detokeniser.push(token) for token in tokens]
    reply.finish()
    assert reply.text == detokenise(tokens)


@pytest.mark.parametrize(
    ("stops", "pieces"),
    [
        ([" am fine"], ["I", "", "", " am now"]),
        (["am now"], ["I", " ", "", ""]),
        (["I"], ["", "", "", ""]),
        (["now", " am"], ["I", "", "", ""]),
    ],
)
def test_what_may_become_a_stop_string_waits(stops: list[str], pieces: list[str]) -> None:
    reply = ReadableReply(stops)
    assert [reply.push("i"), reply.push("am"), "", reply.push("now")] == pieces
