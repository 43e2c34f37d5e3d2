"""`ctsm chat`: in a terminal and over a pipe, without a pseudo-terminal."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ctsm.care import NOTICE
from ctsm.corpus.emotions import EMOTIONS
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.serving.chat import HELP, Chat, chat_in_terminal, chat_over_pipe
from ctsm.serving.responder import Responder

ESCAPE = "\x1b["
PAGE = (Path(__file__).parent.parent.parent / "docs" / "chat.md").read_text(encoding="utf-8")
SHORT = DecodingOptions(max_tokens=4)


def terminal(width: int = 200, colours: bool = False, **environment: str) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system="standard" if colours else None,
        _environ=environment,
        highlight=False,
        markup=False,
        emoji=False,
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())


def talk(responder: Responder, *lines: str, console: Console | None = None, **options: object) -> str:
    console = console or terminal()
    remaining = iter(lines)

    def read() -> str:
        try:
            return next(remaining)
        except StopIteration:
            raise EOFError from None

    chat_in_terminal(responder, read, console, replace(SHORT, **options))  # type: ignore[arg-type]
    return shown(console)


def told(responder: Responder, *lines: str, console: Console | None = None, max_tokens: int = 4) -> Chat:
    """A chat in a terminal that has taken some lines."""
    chat = Chat(responder, console or terminal(), replace(SHORT, max_tokens=max_tokens))
    for line in lines:
        assert chat.take(line)
    return chat


def piped(responder: Responder, text: str) -> tuple[str, str]:
    out, remarks = io.StringIO(), io.StringIO()
    chat_over_pipe(responder, io.StringIO(text, newline="\n"), out, remarks, SHORT)
    return out.getvalue(), remarks.getvalue()


def test_a_conversation_remembers_its_turns(responder: Responder) -> None:
    first = responder.respond(["A dog chased me."], SHORT)
    second = responder.respond(["A dog chased me.", first.text, "I am fine."], SHORT)
    text = talk(responder, "A dog chased me.", "", "I am fine.", "/quit", "never read")
    assert text.count("model>") == 2
    flat = " ".join(text.split())
    assert " ".join(first.text.split()) in flat
    assert " ".join(second.text.split()) in flat
    for name, probability in second.top_emotions():
        assert f"{name} {probability:.0%}" in text


def replies(text: str) -> list[str]:
    return [" ".join(part.split("       ")[0].split()) for part in text.split("model> ")[1:]]


def test_reset_forgets_the_turns_and_undo_the_last(responder: Responder) -> None:
    alone = responder.respond(["I am fine."], SHORT)
    first = responder.respond(["A dog chased me."], SHORT)
    after = responder.respond(["A dog chased me.", first.text, "I am fine."], SHORT)
    text = talk(responder, "A dog chased me.", "/reset", "I am fine.")
    assert replies(text.replace("A new conversation.", "       "))[1] == " ".join(alone.text.split())
    chat = told(responder, "A dog chased me.", "Nobody called.", "/undo", "I am fine.")
    assert [exchange.response.text for exchange in chat.exchanges] == [first.text, after.text]
    chat = told(responder, "A dog chased me.", "/undo", "I am fine.")
    assert [exchange.response.text for exchange in chat.exchanges] == [alone.text]


def test_the_commands_say_what_they_did(responder: Responder) -> None:
    text = talk(responder, "/undo", "/explain", "/save x", "hello", "/undo", "/help", "/reset now", "/helpme [bold]")
    assert "Nothing to take back" in text
    assert "Nothing to explain yet" in text
    assert "Nothing to save yet" in text
    assert "Taken back: hello" in text
    assert "/reset takes nothing" in text
    assert "Unknown command '/helpme'" in text
    assert all(command in text.split("Taken back")[1] for command in HELP)


def test_text_without_words_is_refused_in_words(responder: Responder) -> None:
    text = talk(responder, "\x00")
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
    assert replies(text) == [" ".join(first.split()), " ".join(second.text.split())]


def test_set_changes_how_replies_are_made(responder: Responder) -> None:
    options = DecodingOptions(method="beam", beam_size=3, max_tokens=3)
    console = terminal()
    chat = told(responder, "/set max-tokens 3", "/set decoder beam", "/set beam-size 3", "/set", "hi", console=console)
    assert chat.options == chat.exchanges[0].options == options
    assert chat.exchanges[0].response.text == responder.respond(["hi"], options).text
    assert re.search(r"^beam-size +3$", shown(console), re.MULTILINE)
    assert "temperature" not in shown(console), "beam search does not read it"
    chat = told(responder, "/set decoder sample", "/set seed 5", "/set temperature 0.5", "/set decoder greedy", "hi")
    assert chat.exchanges[0].response.text == responder.respond(["hi"], SHORT).text


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("/set beam", "There is no option 'beam'; choose one of decoder,"),
        ("/set temperature 0.5", "temperature is 0.5, which only the method sample reads; set decoder to sample"),
        ("/set max-tokens many", "max-tokens is 'many'; it must be of type int"),
        ("/set max-tokens", "max-tokens is ''"),
        ("/set decoder best", "decoder is 'best'; choose one of greedy, beam, sample"),
        ("/set colour pink", "colour is 'pink'; choose one of valence, state, off"),
        ("/explain some", "write `/explain` or `/explain all`"),
        ("/save", "/save needs a file"),
    ],
)
def test_what_cannot_be_set_is_said_and_changes_nothing(responder: Responder, command: str, message: str) -> None:
    console = terminal()
    chat = told(responder, command, "I am fine.", console=console)
    assert message in shown(console)
    assert (chat.options, len(chat.exchanges)) == (SHORT, 1)


EXAMPLE = re.compile(r"`(/[a-z]+(?: [^`|]+)?)`")
PLACES_OF_EXAMPLES = [*HELP.values(), *(line for line in PAGE.splitlines() if line.startswith("| `/"))]


@pytest.mark.parametrize("place", PLACES_OF_EXAMPLES)
def test_the_examples_of_the_help_and_the_page_work_in_their_order(
    responder: Responder, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # /save FILE writes one
    monkeypatch.setattr(CtsmError, "__init__", _fail)  # a chat shows these errors and goes on
    chat = told(responder, "I am fine.", "I am fine.")
    for example in EXAMPLE.findall(place):
        assert chat.take(example) is (example != "/quit")
        if example == "/reset":
            chat.take("I am fine.")


def _fail(error: CtsmError, message: str) -> None:
    raise AssertionError(message)


def test_the_page_and_the_help_have_examples() -> None:
    examples = [example for place in PLACES_OF_EXAMPLES for example in EXAMPLE.findall(place)]
    assert len(examples) >= 12
    assert {example.split()[0] for example in examples} == set(HELP)
    assert examples.count("/set decoder sample") == examples.count("/set temperature 0.7") == 2


def test_the_example_of_the_page_over_a_pipe_answers_as_many_lines_as_it_writes(responder: Responder) -> None:
    ((written, words),) = re.findall(r"^printf '(.*)' \| ctsm (.*) > \S+$", PAGE, re.MULTILINE)
    out, remarks = piped(responder, written.replace("\\n", "\n"))
    first = responder.respond(["I lost my keys."], SHORT).text
    second = responder.respond(["I lost my keys.", first, "And now it rains."], SHORT).text
    assert (out, remarks) == (f"{first}\n{second}\n", "")
    assert words.split()[0] == "chat"


def test_over_a_pipe_every_line_gets_one(responder: Responder) -> None:
    out, remarks = piped(responder, "A dog chased me.\n\nI want to die.\n/reset\n:smile: [bold]hi[/bold]\nlast line")
    lines = out.split("\n")
    assert len(lines) == 7
    assert lines[0] == responder.respond(["A dog chased me."], SHORT).text
    assert lines[1:4] == ["", NOTICE, ""]
    assert lines[4] == responder.respond([":smile: [bold]hi[/bold]"], SHORT).text
    assert lines[6] == ""
    assert ESCAPE not in out
    assert "holds no words" in remarks


def test_over_a_pipe_a_command_is_a_turn_like_any_other(
    responder: Responder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [*HELP, "/nope", "/save x/y.json", "/set decoder beam", "/reset now", "say /reset", "/", "/quit", "hi"]
    lines.remove("/reset")
    turns: list[str] = []
    for line in lines:
        turns += [line, responder.respond([*turns, line], SHORT).text]
    out, remarks = piped(responder, "".join(f"{line}\n" for line in lines))
    assert (out.split("\n"), remarks) == ([*turns[1::2], ""], "")
    assert list(tmp_path.iterdir()) == []


def test_over_a_pipe_reset_alone_begins_anew(responder: Responder) -> None:
    alone = responder.respond(["I am fine."], SHORT).text
    out, _ = piped(responder, "A dog chased me.\n /reset \r\nI am fine.\r\n/reset\n/reset\nI am fine.")
    assert out.split("\n")[1:] == ["", alone, "", "", alone, ""]


@given(st.lists(st.sampled_from(["/reset", "/save a", "", "\x00", "a\rb", "a\x0bb\u2028c", "hi", "/", "\ud83d"])))
@settings(deadline=None, max_examples=15)
def test_over_a_pipe_one_line_in_is_one_line_out(responder: Responder, lines: list[str]) -> None:
    out, _ = piped(responder, "".join(f"{line}\n" for line in lines))
    assert out.count("\n") == len(lines)


def test_a_notice_of_several_lines_is_one_over_a_pipe(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctsm.care.NOTICE", "Please call\n  112.\n")
    assert piped(responder, "I want to die.\n")[0] == "Please call 112.\n"


def test_a_pipe_to_the_program_itself(model_directory: Path, responder: Responder, tmp_path: Path) -> None:
    """One process: bytes that are not UTF-8, no prompt, no colour even where they are forced on others, and exit 0."""
    done = subprocess.run(
        [sys.executable, "-m", "ctsm.cli.main", "chat", str(model_directory), "--max-tokens", "6"],
        input=b"A dog\rchased me.\r\nI am \xff fine.\n/quit\n",
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": ""},
        check=True,
    )
    options = DecodingOptions(max_tokens=6)
    first = responder.respond(["A dog chased me."], options).text
    second = responder.respond(["A dog chased me.", first, "I am \ufffd fine."], options).text
    third = responder.respond(["A dog chased me.", first, "I am \ufffd fine.", second, "/quit"], options).text
    assert done.stdout.decode().split("\n") == [first, second, third, ""]
    assert done.stderr == b""


@pytest.mark.parametrize("ending", [EOFError, KeyboardInterrupt])
def test_ctrl_d_and_ctrl_c_leave_cleanly(responder: Responder, ending: type[BaseException]) -> None:
    console, answers = terminal(), iter(["I am fine."])

    def read() -> str:
        for answer in answers:
            return answer
        raise ending

    chat_in_terminal(responder, read, console, SHORT)
    assert shown(console).count("model>") == 1
    assert shown(console).endswith("\n\n")


def test_a_notice_stays_until_it_is_taken_back(responder: Responder) -> None:
    text = talk(responder, "I want to die.", "yes", "/undo", "/undo", "I am fine.", console=terminal(width=2_000))
    assert text.count(f"notice> {NOTICE}") == 2
    assert replies(text) == [" ".join(responder.respond(["I am fine."], SHORT).text.split())]


def test_save_writes_what_was_said_and_felt(responder: Responder, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "talk.json"
    console = terminal()
    lines = ["A dog chased me.", "I am \u00e9fine.", f"/save {path}", f"/save {path}"]
    told(responder, *lines, console=console, max_tokens=5)
    document = json.loads(path.read_text(encoding="utf-8"))
    options = DecodingOptions(max_tokens=5)
    first = responder.respond(["A dog chased me."], options)
    second = responder.respond(["A dog chased me.", first.text, "I am \u00e9fine."], options)
    assert shown(console).count("Saved:") == 2
    assert document["emotions"] == list(EMOTIONS)
    assert [turn["text"] for turn in document["turns"]] == [
        "A dog chased me.",
        first.text,
        "I am \u00e9fine.",
        second.text,
    ]
    speaker, listener = document["turns"][2:]
    assert (speaker["role"], listener["role"]) == ("speaker", "listener")
    assert speaker["probabilities"] == pytest.approx(second.probabilities, abs=1e-4)
    assert [word["token"] for word in speaker["words"]] == ["i", "am", "\u00e9fine", "."]
    for word, token in zip(speaker["words"], second.context_tokens[-4:], strict=True):
        assert word["state"] == pytest.approx(token.state, abs=1e-4)
        assert word["inclination"] == pytest.approx(token.inclination, abs=1e-4)
        assert word["trait"] == (None if token.trait is None else pytest.approx(token.trait, abs=1e-4))
    assert (listener["notice"], listener["decoding"]["max_tokens"]) == (None, 5)


def test_save_never_replaces_a_file_of_another_chat(responder: Responder, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine", encoding="utf-8")
    remarks = talk(responder, "I am fine.", f"/save {path}", f"/save {path}/under", "/save \x00")
    assert "is there already" in remarks.replace("\n", " ")
    assert remarks.count("choose another name") + remarks.count("check") >= 2
    assert path.read_text(encoding="utf-8") == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_lines_are_answered_at_once(responder: Responder) -> None:
    """A program on the other end waits for each reply before it writes the next line."""
    out = io.BytesIO()
    flushed = io.TextIOWrapper(out, encoding="utf-8", write_through=False)

    class Partner(io.StringIO):
        lines: Iterator[str] = iter(["I am fine.\n", "A dog chased me.\n", ""])
        seen: list[int] = []  # noqa: RUF012

        def readline(self, size: int = -1) -> str:
            self.seen.append(out.getvalue().count(b"\n"))
            return next(self.lines)

    chat_over_pipe(responder, Partner(), flushed, io.StringIO(), SHORT)
    assert Partner.seen == [0, 1, 2]


def test_a_chat_without_a_terminal_console_takes_lines_too(responder: Responder) -> None:
    chat = Chat(responder, terminal(), SHORT)
    assert chat.take("hello") is True
    assert chat.take("/quit") is False
    assert len(chat.exchanges) == 1
