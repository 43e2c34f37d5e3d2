"""`ctsm generate`: order, fields and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctsm.care import NOTICE
from ctsm.cli.main import main
from ctsm.decoding.options import DecodingOptions
from ctsm.evaluation.replies import read_replies
from ctsm.serving.responder import Responder

LINES = [
    {
        "context": ["I am afraid of the dog and I have been all week, nobody is here."],
        "reference": "Oh no.",
        "emotion": "afraid",
    },
    {"context": ["I am fine."], "id": "b", "conversation_id": "talk"},
    {"context": ["A dog chased me.", "Are you hurt?", "I am fine."], "id": "c"},
]


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_replies_come_in_the_order_of_the_input(model_directory: Path, responder: Responder, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", LINES)
    assert (
        main(["generate", str(model_directory), str(source), "-o", str(tmp_path / "out.jsonl"), "--max-tokens", "6"])
        == 0
    )
    replies = read_replies(tmp_path / "out.jsonl")
    assert [reply.id for reply in replies] == ["1", "b", "c"]
    assert [reply.conversation_id for reply in replies] == ["1", "talk", "c"]
    assert (replies[0].reference, replies[0].emotion, replies[1].emotion) == ("Oh no.", "afraid", None)
    for line, reply in zip(LINES, replies, strict=True):
        expected = responder.respond(line["context"], DecodingOptions(max_tokens=6))
        assert (reply.reply, reply.reply_tokens, reply.predicted) == (expected.text, expected.tokens, expected.emotion)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"text": "hi"}], 'in.jsonl, line 1: "context" is not a list of texts'),
        ([LINES[1], {"context": "hi"}], 'in.jsonl, line 2: "context" is not a list of texts'),
        ([{"context": []}], "in.jsonl, line 1: the conversation is empty"),
        ([{"context": ["hi", "hello"]}], "in.jsonl, line 1: the last of 2 turns is the listener's"),
        ([{"context": [""]}], "in.jsonl, line 1: turn 1 of the conversation holds no words"),
        ([{"context": ["hi"], "id": 3}], 'in.jsonl, line 1: "id" is not a text'),
        ([LINES[1], LINES[1]], "the id 'b' is used twice"),
        ([], "in.jsonl: holds no context"),
        (["hi"], "in.jsonl, line 1: not a JSON object"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[object], message: str
) -> None:
    source = write(tmp_path / "in.jsonl", lines)
    assert main(["generate", str(model_directory), str(source), "-o", str(tmp_path / "out.jsonl")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


def test_decoding_flags_are_obeyed(model_directory: Path, responder: Responder, tmp_path: Path) -> None:
    """A sampled reply depends on the seed and on the line, not on which lines are answered together."""
    source, out = write(tmp_path / "in.jsonl", LINES), tmp_path / "out.jsonl"
    for words, options in (
        (["--decoder", "beam", "--beam-size", "3", "--length-penalty", "0"], {"beam_size": 3, "length_penalty": 0.0}),
        (
            ["--decoder", "sample", "--top-k", "9", "--top-p", "0.9", "--seed", "4"],
            {"top_k": 9, "top_p": 0.9, "seed": 4},
        ),
    ):
        assert main(["generate", str(model_directory), str(source), "-o", str(out), "--max-tokens", "5", *words]) == 0
        made = DecodingOptions(method=words[1], max_tokens=5, **options)
        for line, (content, reply) in enumerate(zip(LINES, read_replies(out), strict=True)):
            (expected,) = responder.respond_batch([content["context"]], made, seeds=[line])
            assert reply.reply_tokens == expected.tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-tokens", "0"], "ctsm generate: error: --max-tokens is 0; it must be from 1 to 1,000."),
        (["--seed", "3"], "ctsm generate: error: --seed is 3, which only the method sample reads;"),
    ],
)
def test_senseless_decoding_is_refused_before_the_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["generate", str(tmp_path / "missing"), "in.jsonl", "-o", str(tmp_path / "o"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_one_reply_a_context_so_no_n_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(tmp_path), "in.jsonl", "-o", "o", "--decoder", "beam", "--n-best", "2"]
    assert main(words) == 2
    assert "--n-best" in capsys.readouterr().err


def test_the_notice_is_in_the_file_unless_it_is_switched_off(model_directory: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [*LINES, {"context": ["I want to die.", "Why?", "No reason."]}])
    for words, notices in (([], [None, None, None, NOTICE]), (["--no-care"], [None] * 4)):
        out = tmp_path / "out.jsonl"
        assert main(["generate", str(model_directory), str(source), "-o", str(out), "--max-tokens", "5", *words]) == 0
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert [line["notice"] for line in lines] == notices
        replies = read_replies(out)
        assert [reply.reply == NOTICE and reply.reply_tokens == () for reply in replies] == [bool(n) for n in notices]
        assert all(reply.predicted for reply in replies)
