from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.corpus import reader
from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.reader import Conversation, listener_turns, read_dialogues
from ctsm.errors import CtsmError

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
TRAIN = (
    "c1,1,proud,My daughter won_comma_ at last.,17,She won a race_comma_ you know.,5|5|5,\n"
    'c1,2,proud,My daughter won_comma_ at last.,4,"Great" news!,5|5|5,\n'
    "c1,3,proud,My daughter won_comma_ at last.,17,Thanks.,5|5|5,\n"
    "c2,1,sad,Rain all week.,4,It rains.,,<TAG>\n"
    "c2,2,sad,Rain all week.,4,Oh dear.,,\n"
    "c3,1,sad,Rain all week.,4,Rain again.,,\n"
)
VALID = "d1,1,angry,Noise.,1,The noise!,,,one reply|two_comma_ replies\nd1,2,angry,Noise.,2,Sorry.,,,\n"
TEST = "e1,2,joyful,Cake.,2,Yum.,,\ne1,1,joyful,Cake.,1,I baked.,,\n"
FILES = {"train.csv": HEADER + TRAIN, "valid.csv": HEADER + VALID, "test.csv": HEADER + TEST}

EXPECTED = {
    "train": [
        Conversation(
            "c1",
            EMOTIONS.index("proud"),
            "My daughter won, at last.",
            ("She won a race, you know.", '"Great" news!', "Thanks."),
        ),
        Conversation("c2", EMOTIONS.index("sad"), "Rain all week.", ("It rains.", "Oh dear.")),
        Conversation("c3", EMOTIONS.index("sad"), "Rain all week.", ("Rain again.",)),
    ],
    "dev": [Conversation("d1", EMOTIONS.index("angry"), "Noise.", ("The noise!", "Sorry."))],
    "test": [Conversation("e1", EMOTIONS.index("joyful"), "Cake.", ("I baked.", "Yum."))],
}


def write_archive(path: Path, files: dict[str, str | bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_folder(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def record(**changes: Any) -> dict[str, Any]:
    base = {"id": "a", "emotion": "sad", "situation": "Rain.", "split": "train", "turns": ["It rains.", "Oh dear."]}
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def write_jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in records), encoding="utf-8")
    return path


# What is read


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_archive(tmp_path: Path, mode: str) -> None:
    files = {"empatheticdialogues/README": "no csv", **{f"empatheticdialogues/{name}": FILES[name] for name in FILES}}
    assert read_dialogues(write_archive(tmp_path / "ed.tar.gz", files, mode)) == EXPECTED


def test_members_are_read_and_never_extracted(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    files = {
        "../escaped/train.csv": FILES["train.csv"],
        "/valid.csv": FILES["valid.csv"],
        "test.csv": FILES["test.csv"],
    }
    assert read_dialogues(write_archive(inside / "ed.tar.gz", files)) == EXPECTED
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "ed.tar.gz"]


def test_folder_itself_and_one_level_below(tmp_path: Path) -> None:
    write_folder(tmp_path / "outer" / "empatheticdialogues", FILES)
    assert read_dialogues(tmp_path / "outer" / "empatheticdialogues") == EXPECTED
    assert read_dialogues(tmp_path / "outer") == EXPECTED


def test_windows_line_ends_byte_order_mark_and_empty_lines(tmp_path: Path) -> None:
    files = {name: b"\xef\xbb\xbf" + (text + "\n").replace("\n", "\r\n").encode() for name, text in FILES.items()}
    assert read_dialogues(write_folder(tmp_path, files)) == EXPECTED


def test_unusual_line_separators_inside_a_text_are_text(tmp_path: Path) -> None:
    row = "c1,1,proud,S.,0,one\u2028two\x85three\x0bfour,,\n"
    dialogues = read_dialogues(write_folder(tmp_path, {**FILES, "train.csv": HEADER + row}))
    assert dialogues["train"][0].turns == ("one\u2028two\x85three\x0bfour",)


def test_jsonl_file_and_folder(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", record(), record(id="b", split="test", emotion="proud", situation=""))
    dialogues = read_dialogues(first)
    assert dialogues == {
        "train": [Conversation("a", 5, "Rain.", ("It rains.", "Oh dear."))],
        "dev": [],
        "test": [Conversation("b", 3, "", ("It rains.", "Oh dear."))],
    }
    write_jsonl(tmp_path / "b.jsonl", record(id="c", split="dev"))
    both = read_dialogues(tmp_path)
    assert [[item.id for item in both[split]] for split in ("train", "dev", "test")] == [["a"], ["c"], ["b"]]


def test_listener_turns_are_the_odd_ones_with_all_before_them() -> None:
    talk = Conversation("x", 0, "s", ("u0", "u1", "u2", "u3", "u4"))
    alone = Conversation("y", 0, "s", ("u0",))
    examples = list(listener_turns([talk, alone, talk]))
    assert [(example.context, example.reply) for example in examples] == [
        (("u0",), "u1"),
        (("u0", "u1", "u2"), "u3"),
    ] * 2
    assert examples[0].conversation is talk


# The publisher's files cannot say "_comma_": it is how they write a comma.
TEXTS = (
    st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff"), min_size=1)
    .filter(lambda text: "_comma_" not in text)
    .map(lambda text: "x" + text)
)


@given(st.lists(st.tuples(st.sampled_from(EMOTIONS), TEXTS, st.lists(TEXTS, min_size=1, max_size=5)), min_size=1))
def test_any_text_survives_both_layouts(
    tmp_path_factory: pytest.TempPathFactory, talks: list[tuple[str, str, list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("dialogues")
    rows, records = [], []
    for number, (emotion, situation, turns) in enumerate(talks):
        for index, turn in enumerate(turns, start=1):
            texts = [text.replace(",", "_comma_") for text in (situation, turn)]
            rows.append(f"c{number},{index},{emotion},{texts[0]},0,{texts[1]},,\n")
        records.append(record(id=f"c{number}", emotion=emotion, situation=situation, turns=turns))
    expected = [
        Conversation(f"c{number}", EMOTIONS.index(emotion), situation, tuple(turns))
        for number, (emotion, situation, turns) in enumerate(talks)
    ]
    assert read_dialogues(write_folder(folder, {**FILES, "train.csv": HEADER + "".join(rows)}))["train"] == expected
    assert read_dialogues(write_jsonl(folder / "x.jsonl", *records))["train"] == expected


# What is refused


def refusal(path: Path) -> str:
    with pytest.raises(CtsmError) as caught:
        read_dialogues(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("c1,1,proud,S.,0,a, b,,\nc1,2,proud,S.,0,a,b,c,,\n", "line 3: has 10 fields instead of 8"),
        ("c1,1,proud,S.,0,hello\n", "line 2: has 6 fields instead of 8"),
        ("c1,one,proud,S.,0,hello,,\n", "line 2: utterance_idx is 'one'"),
        ("c1,-1,proud,S.,0,hello,,\n", "line 2: utterance_idx is '-1'"),
        ("c1,\u0661,proud,S.,0,hello,,\n", "line 2: utterance_idx is '\u0661'"),
        ("c1," + "9" * 5000 + ",proud,S.,0,hello,,\n", "line 2: utterance_idx is '999"),
        ("c1,0,proud,S.,0,hello,,\n", "line 2: utterance_idx is 0 where 1 should follow in conversation 'c1'"),
        ("c1,1,proud,S.,0,a,,\nc1,3,proud,S.,0,b,,\n", "line 3: utterance_idx is 3 where 2 should"),
        ("c1,1,proud,S.,0,a,,\nc1,1,proud,S.,0,b,,\n", "line 3: utterance_idx is 1 where 2 should"),
        ("c1,1,prowd,S.,0,a,,\n", "line 2: unknown emotion label 'prowd'; did you mean proud"),
        ("c1,1,Proud,S.,0,a,,\n", "did you mean proud"),
        ("c1,1,zzzzz,S.,0,a,,\n", "use one of surprised, excited"),
        ("c1,1,proud,S.,0,,,\n", "line 2: the utterance is empty"),
        ("c1,1,proud,S.,0, \u200b ,,\n", "line 2: the utterance is empty"),
        (",1,proud,S.,0,a,,\n", "line 2: the conversation has no id"),
        (
            "c1,1,proud,S.,0,a,,\nc1,2,sad,S.,0,b,,\n",
            "line 3: the emotion of conversation 'c1' changes from proud to sad",
        ),
        (
            "c1,1,proud,S.,0,a,,\nc2,1,proud,S.,0,a,,\nc1,2,proud,S.,0,b,,\n",
            "line 4: conversation 'c1' was already read",
        ),
        ("c1,1,proud,S.,0," + "a" * 1_100_000 + ",,\n", "line 2: longer than 1048576 bytes"),
        ("", "holds no conversation"),
    ],
)
def test_malformed_rows(tmp_path: Path, rows: str, expected: str) -> None:
    write_folder(tmp_path, {**FILES, "train.csv": HEADER + rows})
    message = refusal(tmp_path)
    assert expected in message
    assert str(tmp_path / "train.csv") in message
    assert len(message) < 800


@pytest.mark.parametrize("header", ["", "a,b,c\n", HEADER.replace("prompt", "situation"), HEADER.replace(",", ";")])
def test_bad_header(tmp_path: Path, header: str) -> None:
    message = refusal(write_folder(tmp_path, {**FILES, "valid.csv": header + VALID}))
    assert "valid.csv, line 1: the header is not conv_id," in message


def test_empty_csv_file(tmp_path: Path) -> None:
    assert "valid.csv" in refusal(write_folder(tmp_path, {**FILES, "valid.csv": ""}))


def test_invalid_utf8(tmp_path: Path) -> None:
    content = (HEADER + TRAIN).encode() + b"c9,1,sad,S.,0,caf\xe9,,\n"
    assert "train.csv, line 8: not valid UTF-8" in refusal(write_folder(tmp_path, {**FILES, "train.csv": content}))


def test_missing_paths(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nothing.tar.gz")
    assert "holds neither train.csv, valid.csv, test.csv nor *.jsonl" in refusal(tmp_path)
    two = {name: FILES[name] for name in ("train.csv", "test.csv")}
    assert "valid.csv: no such file (the dev split" in refusal(write_folder(tmp_path, two))
    assert "give the folder" in refusal(tmp_path / "train.csv")


@pytest.mark.parametrize("content", [b"", b"just some text, no archive", b"\x1f\x8b broken gzip", b"PK\x03\x04 zip"])
def test_not_an_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ed.tar.gz"
    path.write_bytes(content)
    assert "ed.tar.gz: is not a complete tar archive" in refusal(path)


def test_archive_with_a_member_missing_or_twice(tmp_path: Path) -> None:
    two = {name: FILES[name] for name in ("train.csv", "test.csv")}
    assert "holds no valid.csv" in refusal(write_archive(tmp_path / "two.tar.gz", two))
    again = {**FILES, "copy/train.csv": FILES["train.csv"]}
    assert "holds train.csv twice" in refusal(write_archive(tmp_path / "again.tar.gz", again))


def test_the_place_in_an_archive_is_named(tmp_path: Path) -> None:
    files = {**{f"ed/{name}": FILES[name] for name in FILES}, "ed/test.csv": HEADER + "c,1,sed,S.,0,a,,\n"}
    path = write_archive(tmp_path / "ed.tar.gz", files)
    assert f"{path}:test.csv, line 2: unknown emotion label 'sed'" in refusal(path)


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_every_truncation_of_an_archive_is_refused(tmp_path: Path, mode: str) -> None:
    data = write_archive(tmp_path / "whole.tar.gz", FILES, mode).read_bytes()
    # The last blocks of a plain tar file are only padding; up to the end of the last row everything counts.
    end = len(data) if mode == "w:gz" else data.index(TEST.encode()) + len(TEST)
    path = tmp_path / "cut.tar.gz"
    for length in range(0, end, max(1, end // 60)):
        path.write_bytes(data[:length])
        refusal(path)


def test_a_damaged_byte_is_noticed(tmp_path: Path) -> None:
    data = gzip.compress(gzip.decompress(write_archive(tmp_path / "whole.tar.gz", FILES).read_bytes()), compresslevel=0)
    place = data.index(b"It rains.")
    (tmp_path / "damaged.tar.gz").write_bytes(data[:place] + b"X" + data[place + 1 :])
    assert "is not a complete tar archive (CRC check failed" in refusal(tmp_path / "damaged.tar.gz")


@given(st.binary(max_size=600))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    for name in ("x.tar.gz", "x.jsonl"):
        path = tmp_path_factory.mktemp("random") / name
        path.write_bytes(data)
        refusal(path)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_UNPACKED_BYTES", 5 << 20)
    zeros = bytes(6 << 20)
    bomb = write_archive(tmp_path / "bomb.tar.gz", {"other.bin": zeros, **FILES})
    assert bomb.stat().st_size < 20_000
    assert "unpacks to more than 5 MiB" in refusal(bomb)
    assert "longer than" in refusal(write_archive(tmp_path / "line.tar.gz", {**FILES, "train.csv": zeros}))
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "header.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + zeros))
    assert "unpacks to more than 5 MiB" in refusal(tmp_path / "header.tar.gz")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "too deeply nested"),
        ('{"id": ' + "1" * 5000 + "}", "too long a number"),
        (json.dumps(record(id=None)), "'id' is missing"),
        (json.dumps(record(id="")), "has no id"),
        (json.dumps(record(id=7)), "'id' is missing or not a string"),
        (json.dumps(record(emotion=None)), "'emotion' is missing"),
        (json.dumps(record(emotion="sadd")), "unknown emotion label 'sadd'; did you mean sad"),
        (json.dumps(record(situation=["x"])), "'situation' is missing or not a string"),
        (json.dumps(record(split="valid")), "unknown split 'valid'; use train, dev or test"),
        (json.dumps(record(turns=None)), "'turns' is not a list"),
        (json.dumps(record(turns="hello")), "'turns' is not a list"),
        (json.dumps(record(turns=[])), "'turns' is not a list with at least one"),
        (json.dumps(record(turns=["a", 1])), "'turn 2' is missing or not a string"),
        (json.dumps(record(turns=["a", " \x00"])), "turn 2 is empty"),
        (json.dumps(record(turns=["a", "\ud800"])), "'turn 2' holds half of a surrogate pair"),
        (json.dumps(record(id="first")), "conversation 'first' was already read"),
    ],
)
def test_malformed_jsonl(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps(record(id="first")) + "\n\n" + line + "\n", encoding="utf-8")
    message = refusal(path)
    assert message.startswith(f"{path}, line 3: ")
    assert expected in message


def test_ids_are_unique_over_the_files_of_a_folder(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", record())
    write_jsonl(tmp_path / "b.jsonl", record(split="dev"))
    assert "b.jsonl, line 1: conversation 'a' was already read" in refusal(tmp_path)


def test_empty_jsonl(tmp_path: Path) -> None:
    assert "holds no conversation" in refusal(write_jsonl(tmp_path / "a.jsonl"))


# The real data


@pytest.mark.real
def test_the_official_archive() -> None:
    folder = os.environ.get("CTSM_DATA")
    if not folder:
        pytest.skip("CTSM_DATA is unset: the real data are not here")
    dialogues = read_dialogues(Path(folder) / "empatheticdialogues.tar.gz")
    counts = {
        split: (len(talks), sum(len(talk.turns) for talk in talks), len(list(listener_turns(talks))))
        for split, talks in dialogues.items()
    }
    assert counts == {
        "train": (19_533, 84_169, 40_254),
        "dev": (2_770, 12_078, 5_738),
        "test": (2_547, 10_973, 5_259),
    }
