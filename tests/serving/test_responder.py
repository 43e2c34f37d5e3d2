"""The Python API: replies, emotions and maps for any conversation, and clear refusals."""

from __future__ import annotations

import dataclasses
import io
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import ctsm
from ctsm.care import NOTICE
from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.sample import sample_path
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.knowledge.inference import RELATIONS
from ctsm.models.base import Context
from ctsm.serving.chat import Chat
from ctsm.serving.responder import MAX_CONTEXT, Responder
from ctsm.text.detokenise import detokenise
from ctsm.text.tokenise import tokenise


def lexicon() -> dict[str, tuple[float, float, float]]:
    lines = sample_path("vad").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return {word: (float(v), float(a), float(d)) for word, v, a, d in rows}


def test_a_response_has_everything_promised(responder: Responder) -> None:
    turns = ["A big dog chased me.", "Oh no, are you hurt?", "I am fine, but afraid of it."]
    response = responder.respond(turns, DecodingOptions(max_tokens=7))
    assert len(response.tokens) <= 7
    assert response.text == detokenise(response.tokens)
    assert set(response.probabilities) == set(EMOTIONS)
    assert math.isclose(sum(response.probabilities.values()), 1.0, rel_tol=1e-5)
    assert response.emotion == max(response.probabilities, key=response.probabilities.__getitem__)
    best = response.top_emotions(3)
    assert best == sorted(response.probabilities.items(), key=lambda item: item[1], reverse=True)[:3]
    assert set(response.inferences) == set(RELATIONS)
    assert not response.truncated


def test_every_context_token_carries_its_maps(responder: Responder) -> None:
    turns = ["A big dog chased me.", "Oh no, are you hurt?", "I am fine, but zorgled by it."]
    response = responder.respond(turns)
    words = [token for turn in turns for token in tokenise(turn)]
    roles = [role for turn, role in zip(turns, ("speaker", "listener", "speaker"), strict=True) for _ in tokenise(turn)]
    assert [token.token for token in response.context_tokens] == words
    assert [token.role for token in response.context_tokens] == roles
    values = lexicon()
    known_to_model = set(responder.bundle.vocabulary.words)
    for token in response.context_tokens:
        expected = values.get(token.token) if token.token in known_to_model else None
        assert token.in_lexicon == (expected is not None)
        assert token.trait == (None if expected is None else pytest.approx(expected))
        assert len(token.inclination) == len(token.state) == 32
        assert all(-1.0001 <= value <= 1.0001 for value in token.inclination)
        assert math.isclose(sum(token.state), 1.0, rel_tol=1e-5)


def test_batched_replies_equal_single_ones(responder: Responder) -> None:
    conversations = [
        ["I am fine."],
        ["A big dog chased me today and nobody was there to help.", "Oh no!", "I am afraid of it."],
        ["Nobody called me this week."],
    ]
    options = DecodingOptions(max_tokens=9)
    together = responder.respond_batch(conversations, options)
    for conversation, response in zip(conversations, together, strict=True):
        alone = responder.respond(conversation, options)
        assert response.tokens == alone.tokens
        assert response.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_beam_search_gives_alternatives(responder: Responder) -> None:
    turns = ["A big dog chased me."]
    best = responder.respond(turns, DecodingOptions(method="beam", max_tokens=6))
    response = responder.respond(turns, DecodingOptions(method="beam", max_tokens=6, n_best=4))
    assert (best.tokens, best.alternatives) == (response.tokens, ())
    assert len(response.alternatives) == 3
    assert len({response.text, *response.alternatives}) > 1
    assert responder.respond(turns).alternatives == ()


def test_sampled_replies_follow_their_seeds(responder: Responder) -> None:
    conversations = [["I am fine."], ["A big dog chased me today and nobody helped."], ["I am fine."]]
    options = DecodingOptions(method="sample", max_tokens=6, seed=3)
    replies = responder.respond_batch(conversations, options, seeds=[5, 6, 7])
    again = responder.respond_batch(conversations[::-1], options, seeds=[7, 6, 5])
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in again[::-1]]
    assert replies[0].tokens != replies[2].tokens
    assert responder.respond(conversations[0], options) == responder.respond_batch(conversations[:1], options, [0])[0]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "the conversation is empty"),
        (["Hello.", "Hi."], "the last of 2 turns is the listener's"),
        (["  \n "], "turn 1 of the conversation holds no words"),
        (["Hello.", "", "Hi."], "turn 2 of the conversation holds no words"),
        (["\x00\u200b"], "turn 1 of the conversation holds no words"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(
    responder: Responder, turns: list[str], message: str
) -> None:
    with pytest.raises(CtsmError) as refusal:
        responder.respond(turns)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "zxq wvk blorf",  # only words it has never seen
        "\U0001f600\U0001f62d\u200d\u2764\ufe0f",
        "a\x00b\x07c\x1b[31md",
        "''''``\"\" ... !!! ?",
        "\ud83d is half a character",
        "UNK PAD EOS CLS",
    ],
)
def test_odd_input_still_gets_a_reply(responder: Responder, text: str) -> None:
    response = responder.respond([text], DecodingOptions(max_tokens=5))
    assert isinstance(response.text, str)
    assert len(response.probabilities) == 32


def test_five_thousand_words_are_cut_to_the_last_ones(responder: Responder) -> None:
    words = random.Random(1).choices(["dog", "fine", "afraid", "week", "and"], k=5_000)
    response = responder.respond([" ".join(words)], DecodingOptions(max_tokens=3))
    assert response.truncated
    assert [token.token for token in response.context_tokens] == words[-(MAX_CONTEXT - 1) :]


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_answered_or_refused(responder: Responder, text: str) -> None:
    try:
        response = responder.respond([text], DecodingOptions(max_tokens=3))
    except CtsmError as refusal:
        assert "holds no words" in str(refusal)
    else:
        assert len(response.context_tokens) > 0


def test_an_unknown_word_can_be_copied(responder: Responder) -> None:
    """With the copy gate forced open every word said is a context word, unknown ones included."""
    gate = responder.bundle.model.generator.gate
    kept = gate.bias.detach().clone()
    try:
        gate.bias.data.fill_(-200.0)
        response = responder.respond(["zorgle"], DecodingOptions(max_tokens=4))
    finally:
        gate.bias.data.copy_(kept)
    assert set(response.tokens) <= {"zorgle"}
    assert len(response.tokens) == 4


def test_a_model_directory_is_portable(model_directory: Path, tmp_path: Path, responder: Responder) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(model_directory, moved)
    turns = ["Nobody called me this week."]
    assert ctsm.load(moved).respond(turns) == responder.respond(turns)


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CtsmError, match="not a model or run directory"):
        ctsm.load(tmp_path)


@pytest.fixture
def without_emotions(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> Responder:
    """A model that has no emotion head and perceives nothing."""
    encode = responder.bundle.model.encode

    def bare(*arguments: Any, **options: Any) -> Context:
        return dataclasses.replace(encode(*arguments, **options), emotion_logits=None, perception=None)

    monkeypatch.setattr(responder.bundle.model, "encode", bare)
    return responder


def test_a_model_without_emotions_replies_all_the_same(responder: Responder, without_emotions: Responder) -> None:
    response = without_emotions.respond(["A big dog chased me."], DecodingOptions(max_tokens=5))
    assert response.emotion is None
    assert response.probabilities == {}
    assert response.top_emotions() == []
    assert response.context_tokens == ()
    assert len(response.inferences) == len(RELATIONS)
    assert response.tokens


def test_a_chat_without_emotions_says_so(without_emotions: Responder) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    chat = Chat(without_emotions, console)
    assert chat.take("A dog chased me.")
    assert chat.take("/explain")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "model>" in text
    assert "%" not in text
    assert "does not tell what it perceives" in text
    assert "xReact:" in text


def test_bf16_replies_keep_emotions_and_maps(responder: Responder) -> None:
    """A model this small has no product that is large enough for bf16 but the one with all words."""
    turns = ["A big dog chased me.", "Oh no, are you hurt?", "I am fine, but afraid of it."]
    exact = responder.respond(turns)
    rounded = responder.respond(turns, DecodingOptions(precision="bf16"))
    assert rounded.probabilities == exact.probabilities
    assert rounded.context_tokens == exact.context_tokens
    assert len(rounded.tokens) > 0


def test_phrases_seen_before_change_nothing(responder: Responder) -> None:
    first = responder.respond(["My sister flew home for my birthday."])
    responder.respond(["I lost my keys."])
    assert responder.respond(["My sister flew home for my birthday."]) == first


DISTRESS = ["A dog chased me.", "Are you hurt?", "I want to kill myself.", "What is it?", "Nothing, I am fine."]


def test_a_turn_of_distress_gets_the_notice_and_keeps_its_emotions(responder: Responder) -> None:
    options = DecodingOptions(method="beam", n_best=3, max_tokens=5)
    plain = Responder(responder.bundle, care=False)
    for turns in (DISTRESS[2:3], DISTRESS[:3], DISTRESS):
        response, unchecked = responder.respond(turns, options), plain.respond(turns, options)
        withheld = {"tokens": (), "alternatives": (), "inferences": {}}
        assert response == dataclasses.replace(unchecked, text=NOTICE, notice=NOTICE, **withheld)
        assert unchecked.inferences
        assert unchecked.notice is None
        assert unchecked.tokens
        assert len(response.probabilities) == 32


def test_what_the_listener_said_and_other_conversations_of_a_batch_get_no_notice(responder: Responder) -> None:
    conversations = [["I am fine."], ["I want to die."], ["Hello.", "I want to die.", "Oh!"]]
    checked = responder.respond_batch(conversations)
    unchecked = Responder(responder.bundle, care=False).respond_batch(conversations)
    assert [response.notice for response in checked] == [None, NOTICE, None]
    assert [checked[0], checked[2]] == [unchecked[0], unchecked[2]]


def test_care_is_the_operators_choice_when_loading(model_directory: Path) -> None:
    assert ctsm.load(model_directory).respond(["I want to die."]).text == NOTICE
    assert ctsm.load(model_directory, care=False).respond(["I want to die."]).notice is None
