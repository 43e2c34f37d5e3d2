"""`ctsm chat` over a pipe."""

from __future__ import annotations

import io

from ctsm.decoding.options import DecodingOptions
from ctsm.serving.chat import chat
from ctsm.serving.responder import Responder


def talk(responder: Responder, *lines: str, **options: object) -> str:
    out = io.StringIO()
    made = DecodingOptions(**options)  # type: ignore[arg-type]
    chat(responder, io.StringIO("".join(line + "\n" for line in lines)), out, made)
    return out.getvalue()


def test_a_conversation_remembers_its_turns(responder: Responder) -> None:
    first = responder.respond(["A dog chased me."])
    second = responder.respond(["A dog chased me.", first.text, "I am fine."])
    text = talk(responder, "A dog chased me.", "", "I am fine.", "/quit", "never read")
    assert text.count("model>") == 2
    flat = " ".join(text.split())
    assert " ".join(first.text.split()) in flat
    assert " ".join(second.text.split()) in flat
    for name, probability in second.top_emotions():
        assert f"{name} {probability:.0%}" in text


def test_reset_forgets_the_turns(responder: Responder) -> None:
    alone = responder.respond(["I am fine."])
    text = talk(responder, "A dog chased me.", "/reset", "I am fine.")
    assert " ".join(alone.text.split()) in " ".join(text.split("A new conversation.")[1].split())


def test_explain_shows_words_outside_the_lexicon_as_such(responder: Responder) -> None:
    text = talk(responder, "/explain", "the zorgle is afraid", "/explain")
    assert "Nothing to explain yet" in text
    assert "not in the lexicon" in text
    assert "xReact:" in text


def test_unknown_commands_and_empty_text_are_answered_in_words(responder: Responder) -> None:
    text = talk(responder, "/help [bold]", "\x00")
    assert "Unknown command /help" in text
    assert "holds no words" in text
    assert "model>" not in text


def test_the_n_best_replies_are_shown(responder: Responder) -> None:
    text = talk(responder, "A dog chased me.", method="beam", n_best=3, max_tokens=4)
    response = responder.respond(["A dog chased me."], DecodingOptions(method="beam", n_best=3, max_tokens=4))
    assert text.count("model>") == 1
    flat = " ".join(text.split())
    for alternative in response.alternatives:
        assert f"or> {alternative}".strip() in flat
    assert text.count("or>") == 2


def test_a_seed_repeats_the_conversation_and_each_turn_has_its_own_numbers(responder: Responder) -> None:
    lines = ["I am fine.", "I am fine."]
    text = talk(responder, *lines, method="sample", seed=8, max_tokens=6)
    assert text == talk(responder, *lines, method="sample", seed=8, max_tokens=6)
    assert text != talk(responder, *lines, method="sample", seed=9, max_tokens=6)
    options = DecodingOptions(method="sample", seed=8, max_tokens=6)
    first = responder.respond(lines[:1], options).text
    (second,) = responder.respond_batch([[lines[0], first, lines[1]]], options, seeds=[2])
    replies = [" ".join(part.split("       ")[0].split()) for part in text.split("model> ")[1:]]
    assert replies == [first, second.text]
