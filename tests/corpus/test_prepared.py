from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctsm.corpus.batches import Examples, Ragged
from ctsm.corpus.prepared import (
    HASHED_FILES,
    SPLITS,
    ExampleText,
    PreparedData,
    fingerprint,
    is_prepared,
    save_examples,
)
from ctsm.errors import CtsmError


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    """A prepared directory to spoil."""
    return shutil.copytree(prepared, tmp_path / "copy")


def edit(directory: Path, **changes: object) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_it_opens(prepared: Path) -> None:
    data = PreparedData(prepared)
    assert data.fingerprint == data.manifest["fingerprint"]
    assert len(data.vocabulary) == data.manifest["vocabulary"]["size"]
    assert {name: table.shape[0] for name, table in data.words.items() if name != "labels"} == dict.fromkeys(
        ("idf", "vad", "in_lexicon", "intensity", "vectors"), len(data.vocabulary)
    )
    for split in SPLITS:
        examples = data.examples(split)
        assert len(examples) == data.manifest["counts"][split]["examples"] == len(data.texts(split))
        for name in ("context", "speakers", "target", "reaction"):
            assert len(getattr(examples, name)) == len(examples)
        assert len(examples.cognitive) == 4 * len(examples)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_version_is_refused(copy: Path, version: object) -> None:
    edit(copy, format=version)
    with pytest.raises(CtsmError, match=r"copy: prepared in format .*, this version reads 1; run `ctsm prepare` again"):
        PreparedData(copy)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}"])
def test_a_manifest_of_something_else_is_refused(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content)
    with pytest.raises(CtsmError, match="prepared in format None"):
        PreparedData(copy)


def test_a_broken_manifest_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_text('{"format": 1')
    with pytest.raises(CtsmError, match=r"manifest\.json: cannot read"):
        PreparedData(copy)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CtsmError, match=r"not a prepared dataset \(no manifest.json\); make one with"):
            PreparedData(path)


@pytest.mark.parametrize("name", HASHED_FILES)
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CtsmError, match=f"{name}: missing from the prepared dataset; run `ctsm prepare` again"):
        PreparedData(copy)


def test_a_missing_inference_source_is_refused(copy: Path) -> None:
    shutil.rmtree(copy / "inferences")
    with pytest.raises(CtsmError, match=r"inferences/source\.json: missing"):
        PreparedData(copy)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(HASHED_FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(copy: Path, name: str, place: float, bit: int) -> None:
    path = copy / name
    content = path.read_bytes()
    spoilt = bytearray(content)
    spoilt[int(place * len(content))] ^= 1 << bit
    path.write_bytes(spoilt)
    try:
        with pytest.raises(CtsmError, match="files differ from the manifest's fingerprint"):
            PreparedData(copy)
    finally:
        path.write_bytes(content)
    PreparedData(copy)


@pytest.mark.parametrize("name", HASHED_FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(copy: Path, name: str, share: float) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CtsmError, match="files differ from the manifest's fingerprint"):
        PreparedData(copy)


def test_a_truncated_tensor_file_with_a_fitting_fingerprint_is_refused(copy: Path) -> None:
    for name in ("train.safetensors", "words.safetensors"):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
    edit(copy, fingerprint=fingerprint(copy))
    data = PreparedData(copy)
    with pytest.raises(CtsmError, match=r"train\.safetensors: cannot read the arrays"):
        data.examples("train")
    with pytest.raises(CtsmError, match=r"words\.safetensors: cannot read the arrays"):
        _ = data.words


@pytest.mark.parametrize("spoil", ["cut line", "lost line", "other object", "list", "absent", "bytes"])
def test_spoilt_texts_are_refused(copy: Path, spoil: str) -> None:
    path = copy / "dev.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    {
        "cut line": lambda: path.write_bytes(content[:-20]),
        "lost line": lambda: path.write_bytes(b"".join(lines[:-1])),
        "other object": lambda: path.write_bytes(content + b'{"id": "x"}\n'),
        "list": lambda: path.write_bytes(content + b"[]\n"),
        "absent": path.unlink,
        "bytes": lambda: path.write_bytes(content + b"\xff\n"),
    }[spoil]()
    with pytest.raises(CtsmError, match=r"dev\.jsonl: .*; run `ctsm prepare` again\."):
        PreparedData(copy).texts("dev")


def test_what_counts_as_a_prepared_folder(copy: Path, tmp_path: Path) -> None:
    assert is_prepared(copy)
    (copy / "manifest.json").write_text("broken")
    assert is_prepared(copy)
    (copy / "my notes").touch()
    assert not is_prepared(copy)
    (tmp_path / "empty").mkdir()
    assert not is_prepared(tmp_path / "empty")
    assert not is_prepared(tmp_path / "absent")


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=4), min_size=2, max_size=2)


@settings(max_examples=30)
@given(TEXT, st.lists(TEXT, max_size=3), ROWS)
def test_examples_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, text: str, texts: list[str], rows: list[list[int]]
) -> None:
    """Line separators of every kind inside a text stay inside it."""
    folder = tmp_path_factory.mktemp("split")
    ragged = Ragged.from_rows(rows)
    examples = Examples(
        conversation=np.array([0, 1]),
        emotion=np.array([31, 0]),
        context=ragged,
        speakers=ragged,
        target=ragged,
        cognitive=Ragged.from_rows(rows * 4),
        reaction=ragged,
    )
    readable = [
        ExampleText("a#1", text, tuple(texts), text, tuple(texts), ()),
        ExampleText("b\u2028#1", "b\r", (text, "\x85\x1e"), "\n", (), tuple(texts)),
    ]
    save_examples(folder, "dev", examples, readable)
    data = object.__new__(PreparedData)
    data.directory = folder
    assert data.texts("dev") == readable
    again = data.examples("dev")
    assert again.emotion.tolist() == [31, 0]
    assert [again.context.row(number) for number in range(2)] == rows
    assert [again.cognitive.row(number) for number in range(8)] == rows * 4
