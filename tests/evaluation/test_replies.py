from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.evaluation.replies import Reply, read_replies, read_reply_tokens, write_replies

TEXT = st.text(max_size=12)
TOKEN = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4).filter(lambda t: t.split() == [t])
REPLY = st.builds(
    Reply,
    id=TEXT,
    conversation_id=TEXT,
    context=st.lists(TEXT, max_size=3).map(tuple),
    reference=st.none() | TEXT,
    reply=TEXT,
    reply_tokens=st.lists(TOKEN, max_size=4).map(tuple),
    emotion=st.none() | TEXT,
    predicted=st.none() | TEXT,
    system=TEXT,
)


def line(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": "c1-1",
        "conversation_id": "c1",
        "context": ["My cat came home today."],
        "reference": "You must be relieved!",
        "reply": "That is good to hear.",
        "reply_tokens": ["that", "is", "good", "to", "hear", "."],
        "emotion": "joyful",
        "predicted": "grateful",
        "system": "ctsm",
    }
    return value | changes


def written(folder: Path, *values: dict[str, Any]) -> Path:
    path = folder / "replies.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


@given(st.lists(REPLY, max_size=4, unique_by=lambda reply: reply.id))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, replies: list[Reply]):
    path = tmp_path_factory.mktemp("replies") / "r.jsonl"
    write_replies(path, replies)
    assert read_replies(path) == replies
    assert read_reply_tokens(path) == [list(reply.reply_tokens) for reply in replies]


def test_the_file_has_exactly_the_fields_of_the_schema(tmp_path: Path):
    path = written(tmp_path, line())
    (reply,) = read_replies(path)
    assert reply.context == ("My cat came home today.",)
    write_replies(tmp_path / "again.jsonl", [reply])
    assert json.loads((tmp_path / "again.jsonl").read_text()) == line()


def test_other_fields_are_ignored(tmp_path: Path):
    assert len(read_replies(written(tmp_path, line(notice=None, extra={"a": 1})))) == 1


@pytest.mark.parametrize("name", list(line()))
def test_a_missing_field_is_named_with_its_line(tmp_path: Path, name: str):
    broken = line(id="c1-2")
    del broken[name]
    with pytest.raises(CtsmError, match=rf"replies\.jsonl, line 2: the field '{name}' is missing"):
        read_replies(written(tmp_path, line(), broken))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 7),
        ("id", None),
        ("conversation_id", None),
        ("context", "one text"),
        ("context", ["a", 1]),
        ("context", None),
        ("reference", 1.5),
        ("reply", None),
        ("reply_tokens", "that is"),
        ("reply_tokens", [["that"]]),
        ("emotion", 3),
        ("predicted", ["joyful"]),
        ("system", False),
    ],
)
def test_a_wrong_type_is_named_with_its_line(tmp_path: Path, name: str, value: object):
    with pytest.raises(CtsmError, match=rf"replies\.jsonl, line 1: the field '{name}' must be a (list|text)"):
        read_replies(written(tmp_path, line(**{name: value})))


@pytest.mark.parametrize("tokens", [[""], ["two words"], ["a", "b\u00a0"], ["\n"]])
def test_a_token_with_white_space_is_refused(tmp_path: Path, tokens: list[str]):
    with pytest.raises(CtsmError, match="line 1: a token in 'reply_tokens' is empty or holds white space"):
        read_replies(written(tmp_path, line(reply_tokens=tokens)))


def test_a_repeated_id_is_refused_on_both_ways(tmp_path: Path):
    with pytest.raises(CtsmError, match="line 3: the id 'c1-1' is used twice"):
        read_replies(written(tmp_path, line(), line(id="c1-2"), line()))
    (reply,) = read_replies(written(tmp_path, line()))
    with pytest.raises(CtsmError, match="the id 'c1-1' is used twice"):
        write_replies(tmp_path / "new.jsonl", [reply, reply])
    assert not (tmp_path / "new.jsonl").exists()


def test_plain_text_is_split_at_white_space_and_otherwise_unchanged(tmp_path: Path):
    path = tmp_path / "replies.txt"
    path.write_text("That 's  GOOD .\n\n\tgonna cannot \r\nGreedy: y", encoding="utf-8")
    assert read_reply_tokens(path) == [["That", "'s", "GOOD", "."], [], ["gonna", "cannot"], ["Greedy:", "y"]]


@given(st.lists(st.lists(TOKEN.filter(lambda t: "\ufeff" not in t), max_size=5), max_size=6))
def test_plain_text_round_trip(tmp_path_factory: pytest.TempPathFactory, replies: list[list[str]]):
    path = tmp_path_factory.mktemp("plain") / "r.txt"
    path.write_bytes("".join(" ".join(tokens) + "\n" for tokens in replies).encode())
    assert read_reply_tokens(path) == replies
