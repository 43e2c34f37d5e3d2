from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import SPLITS, PreparedData
from ctsm.corpus.sample import sample_path
from ctsm.errors import CtsmError
from ctsm.files import sha256_of
from ctsm.text.vocabulary import CLS, EOS, SPECIALS, SYS, UNK, USR

# (split, id, emotion, situation, turns); the third turn of c1 has no reply.
CORPUS = [
    ("train", "c1", "joyful", "a lost pet", ["My dog ran home today.", "That is great news!", "We hugged for hours."]),
    ("train", "c2", "sad", "goodbye safari", ["The zebra left.", "Oh no, why?", "It missed home.", "Poor zebra."]),
    ("train", "c3", "sad", "silence", ["Nobody ever answers me."]),
    ("dev", "d1", "proud", "crafts", ["I built a kite.", "A kite? Great!"]),
    ("test", "t1", "angry", "steam", ["The kettle exploded.", "Terrible!", "My kitchen is wet.", "Oh no, wet?"]),
]
TURNS = {
    "c1": ["my dog ran home today .", "that is great news !"],
    "c2": ["the zebra left .", "oh no , why ?", "it missed home .", "poor zebra ."],
    "d1": ["i built a kite .", "a kite ? great !"],
    "t1": ["the kettle exploded .", "terrible !", "my kitchen is wet .", "oh no , wet ?"],
}
SITUATIONS = {"train": "a lost pet goodbye safari silence", "dev": "crafts", "test": "steam"}
EXAMPLES = {"train": [("c1", 1), ("c2", 1), ("c2", 3)], "dev": [("d1", 1)], "test": [("t1", 1), ("t1", 3)]}
VAD = {"zebra": (0.6, 0.4, 0.3), "terrible": (0.1, 0.9, 0.2), "home": (0.5, 0.1, 0.5), "unused": (1.0, 1.0, 1.0)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write CORPUS, or a changed one, as JSONL."""

    def build(corpus: list[tuple[Any, ...]] = CORPUS, name: str = "dialogues.jsonl") -> Path:
        path = tmp_path / name
        keys = ("split", "id", "emotion", "situation", "turns")
        path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in corpus))
        return path

    return build


def run(dialogues: Path, out: Path, **options: Any) -> PreparedData:
    options.setdefault("vector_size", 4)
    prepare(PrepareOptions(str(dialogues), **options), out)
    return PreparedData(out)


def words_of_turns(identities: list[str]) -> set[str]:
    return {word for identity in identities for turn in TURNS[identity] for word in turn.split()}


def test_one_example_for_each_listener_turn(tmp_path: Path, write: Callable[..., Path]) -> None:
    data = run(write(), tmp_path / "out")
    word = {text: number for number, text in enumerate(data.vocabulary.words)}
    for split in SPLITS:
        examples, texts = data.examples(split), data.texts(split)
        assert len(examples) == len(texts) == len(EXAMPLES[split])
        rows = {row[1]: row for row in CORPUS}
        conversations = [row[1] for row in CORPUS if row[0] == split]
        for place, (identity, reply) in enumerate(EXAMPLES[split]):
            context = [turn.split() for turn in TURNS[identity][:reply]]
            assert examples.context.row(place) == [CLS, *(word[token] for turn in context for token in turn)]
            roles = [(USR, SYS)[number % 2] for number, turn in enumerate(context) for _ in turn]
            assert examples.speakers.row(place) == [CLS, *roles]
            assert examples.target.row(place) == [*(word[token] for token in TURNS[identity][reply].split()), EOS]
            assert EMOTIONS[examples.emotion[place]] == rows[identity][2]
            assert examples.conversation[place] == conversations.index(identity)
            assert texts[place].id == f"{identity}#{reply}"
            assert texts[place].conversation_id == identity
            assert texts[place].context == tuple(rows[identity][4][:reply])
            assert texts[place].reference == rows[identity][4][reply]
            assert list(texts[place].reference_tokens) == TURNS[identity][reply].split()
            assert texts[place].oov == ()


def test_the_vocabulary_of_all_splits(tmp_path: Path, write: Callable[..., Path]) -> None:
    words = set(run(write(), tmp_path / "out").vocabulary.words)
    expected = words_of_turns(list(TURNS)) | {word for text in SITUATIONS.values() for word in text.split()}
    assert words == expected | set(EMOTIONS) | set(SPECIALS)
    assert not words & {"hugged", "hours", "nobody", "answers"}, "turns that are in no example"


def test_the_vocabulary_of_the_training_dialogues(tmp_path: Path, write: Callable[..., Path]) -> None:
    data = run(write(), tmp_path / "out", vocabulary="train")
    assert set(data.vocabulary.words) == words_of_turns(["c1", "c2"]) | set(EMOTIONS) | set(SPECIALS)
    size = len(data.vocabulary)
    word = {text: number for number, text in enumerate(data.vocabulary.words)}
    dev = data.examples("dev")
    # "i built a kite ." and "a kite ? great !": the reply's "a" and "kite" can be copied from the context
    assert data.texts("dev")[0].oov == ("i", "built", "a", "kite")
    assert dev.context.row(0) == [CLS, size, size + 1, size + 2, size + 3, word["."]]
    assert dev.target.row(0) == [size + 2, size + 3, word["?"], word["great"], word["!"], EOS]
    # "terrible" is unknown and its context lacks it; "wet" can be copied, and "the" of the first turn keeps its id
    test, texts = data.examples("test"), data.texts("test")
    assert test.target.row(0) == [UNK, word["!"], EOS]
    assert texts[1].oov == ("kettle", "exploded", "terrible", "kitchen", "wet")
    assert test.target.row(1) == [word["oh"], word["no"], word[","], size + 4, word["?"], EOS]
    assert data.words["idf"][UNK] == 1.0


def test_the_manifest_says_what_went_in(tmp_path: Path, write: Callable[..., Path]) -> None:
    dialogues = write()
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("".join("\t".join([word, *map(str, values)]) + "\n" for word, values in VAD.items()))
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("zebra 1 2 3 4\nhome 5 6 7 8\nabsent 0 0 0 0\n")
    known = tmp_path / "known.jsonl"
    known.write_text(json.dumps({"utterance": "The zebra left.", "xReact": ["sad"]}) + "\n")
    data = run(
        dialogues,
        tmp_path / "out",
        vad=str(lexicon),
        vectors=vectors,
        vector_size=None,
        inferences=f"file:{known}",
        vocabulary="train",
        seed=9,
    )
    manifest = data.manifest
    assert manifest["counts"] == {
        "train": {"conversations": 3, "utterances": 8, "examples": 3},
        "dev": {"conversations": 1, "utterances": 2, "examples": 1},
        "test": {"conversations": 1, "utterances": 4, "examples": 2},
    }
    assert manifest["vocabulary"] == {"size": len(data.vocabulary), "words_of": "train"}
    assert manifest["vectors"] == {"words_found": 2, "size": 4}
    assert manifest["vad"]["entries"] == 4
    assert manifest["vad"]["words_found"] == 2
    assert manifest["seed"] == 9
    assert manifest["inferences"]["backend"] == "file"
    resources = {resource["role"]: resource for resource in manifest["resources"]}
    assert {role: resource["file"] for role, resource in resources.items()} == {
        "dialogues": "dialogues.jsonl",
        "vad": "lexicon.txt",
        "vectors": "vectors.txt",
        "file": "known.jsonl",
    }
    for role, path in (("dialogues", dialogues), ("vad", lexicon), ("vectors", vectors), ("file", known)):
        assert resources[role]["sha256"] == sha256_of(path)
        assert resources[role]["terms"]
        assert resources[role]["restricted"] == (role == "vad"), "only the lexicon may not be passed on"
    assert (tmp_path / "out" / "inferences" / "source.json").is_file()


def test_the_sample_is_free_and_says_so(tmp_path: Path) -> None:
    manifest = prepare(
        PrepareOptions("sample", vad="sample", inferences="atomic:sample", vector_size=4), tmp_path / "x"
    )
    assert [resource["role"] for resource in manifest["resources"]] == ["dialogues", "vad", "atomic"]
    for resource in manifest["resources"]:
        assert resource["terms"] == "CTSM sample: CC0 1.0"
        assert not resource["restricted"]
    lines = sample_path("dialogues").read_text(encoding="utf-8").splitlines()
    assert sum(count["conversations"] for count in manifest["counts"].values()) == len(lines)


def test_vad_and_intensity_tables(tmp_path: Path, write: Callable[..., Path]) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("".join("\t".join([word, *map(str, values)]) + "\n" for word, values in VAD.items()))
    data = run(write(), tmp_path / "out", vad=str(lexicon))

    def distance(word: str) -> float:
        valence, arousal, _ = VAD[word]
        return math.sqrt((valence - 0.5) ** 2 + (arousal / 2) ** 2)

    low, high = min(map(distance, VAD)), max(map(distance, VAD))
    assert data.manifest["vad"]["intensity_min"] == pytest.approx(low)
    assert data.manifest["vad"]["intensity_max"] == pytest.approx(high)
    for number, word in enumerate(data.vocabulary.words):
        known = word in VAD
        assert data.words["in_lexicon"][number] == known
        assert data.words["vad"][number] == pytest.approx(VAD[word] if known else (0, 0, 0))
        assert data.words["intensity"][number] == pytest.approx((distance(word) - low) / (high - low) if known else 0)
    assert data.words["in_lexicon"].sum() == 3


def test_without_a_lexicon_the_tables_are_empty(tmp_path: Path, write: Callable[..., Path]) -> None:
    data = run(write(), tmp_path / "out")
    assert data.manifest["vad"] is None
    assert not data.words["in_lexicon"].any()
    assert not data.words["vad"].any()
    assert not data.words["intensity"].any()


def test_vectors_from_a_file_and_random_ones(tmp_path: Path, write: Callable[..., Path]) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("zebra 1 2 3 4\nhome 5 6 7 8\n")
    data = run(write(), tmp_path / "out", vectors=vectors, vector_size=None)
    table = data.words["vectors"]
    assert table.shape == (len(data.vocabulary), 4)
    assert table[data.vocabulary.id_of("zebra")].tolist() == [1, 2, 3, 4]
    others = [number for number, word in enumerate(data.vocabulary.words) if word not in ("zebra", "home")]
    assert np.abs(table[others]).max() < 0.06
    assert np.unique(table[others]).size > 100
    again, other = (run(write(), tmp_path / f"out{seed}", seed=seed).words["vectors"] for seed in (42, 43))
    assert np.array_equal(again[others], table[others])
    assert not np.array_equal(other[others], table[others])


def test_idf_counts_training_utterances(tmp_path: Path, write: Callable[..., Path]) -> None:
    data = run(write(), tmp_path / "out")
    utterances = [set(turn.split()) for identity in ("c1", "c2") for turn in TURNS[identity]]

    def idf(word: str) -> float:
        return math.log((1 + len(utterances)) / (1 + sum(word in utterance for utterance in utterances))) + 1

    seen = set.union(*utterances)
    highest = max(idf(word) for word in seen)
    for number, word in enumerate(data.vocabulary.words):
        expected = idf(word) / highest if word in seen else 1.0
        if word in SPECIALS:
            expected = 1.0 if word == "UNK" else 0.0
        assert data.words["idf"][number] == pytest.approx(expected), word


def test_dev_and_test_do_not_reach_the_idf(tmp_path: Path, write: Callable[..., Path]) -> None:
    before = run(write(), tmp_path / "before")
    turns = ["Zebra zebra dog news!", "Home, why home? No news today."]
    other = [(*row[:4], turns) if row[0] != "train" else row for row in CORPUS]
    after = run(write(other, "other.jsonl"), tmp_path / "after")
    assert before.vocabulary != after.vocabulary
    for word in words_of_turns(["c1", "c2"]) | set(EMOTIONS):
        first = before.words["idf"][before.vocabulary.id_of(word)]
        assert first == after.words["idf"][after.vocabulary.id_of(word)], word


def test_the_labels_are_always_there(tmp_path: Path, write: Callable[..., Path]) -> None:
    data = run(write(), tmp_path / "out", vocabulary="train")
    assert [data.vocabulary.words[number] for number in data.words["labels"]] == list(EMOTIONS)


def test_inferences_of_the_last_utterance(tmp_path: Path, write: Callable[..., Path]) -> None:
    known = tmp_path / "known.jsonl"
    relations = {"xIntent": ["to go home"], "xWant": ["none", "the zebra", "to weep"], "xReact": ["sad", "very sad"]}
    lines = [
        {"utterance": "It missed home.", **relations},
        {"utterance": "The zebra left.", "xNeed": ["a kite"]},
        {"utterance": "Poor zebra.", "xNeed": ["never asked: a reply"]},
    ]
    known.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = run(write(), tmp_path / "out", inferences=f"file:{known}")
    words = data.vocabulary.words
    train = data.examples("train")
    rows = [[words[number] for number in train.cognitive.row(row)] for row in range(12)]
    assert rows[:4] == [["CLS"]] * 4
    assert rows[4:8] == [["CLS"], ["CLS", "a", "kite"], ["CLS"], ["CLS"]]
    assert rows[8:] == [["CLS", "home"], ["CLS"], ["CLS", "the", "zebra"], ["CLS"]]
    assert [[words[number] for number in train.reaction.row(row)] for row in range(3)] == [[], [], ["sad", "sad"]]


def test_the_same_input_gives_the_same_files(tmp_path: Path, write: Callable[..., Path]) -> None:
    first, second = (run(write(), tmp_path / name, vad="sample", inferences="atomic:sample") for name in "ab")
    assert first.fingerprint == second.fingerprint
    names = sorted(path.name for path in first.directory.rglob("*"))
    assert names == sorted(path.name for path in second.directory.rglob("*"))
    for path in first.directory.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second.directory / path.relative_to(first.directory)).read_bytes(), path.name


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "content",
    [
        {"notes.txt": "mine"},
        {"manifest.json": "{}"},
        {"manifest.json": "{}", "vocabulary.txt": "[]", "thesis.tex": "mine"},
    ],
    ids=["other files", "another program's manifest", "something beside it"],
)
def test_a_folder_with_other_files_is_never_replaced(
    tmp_path: Path, write: Callable[..., Path], content: dict[str, str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, text in content.items():
        (out / name).write_text(text)
    with pytest.raises(CtsmError, match=r"out: exists and is not a prepared dataset.*choose another --out"):
        run(write(), out)
    assert {path.name: path.read_text() for path in out.iterdir()} == content


def test_a_run_inside_a_prepared_dataset_is_not_lost(tmp_path: Path, write: Callable[..., Path]) -> None:
    data = run(write(), tmp_path / "out")
    (data.directory / "run").mkdir()
    with pytest.raises(CtsmError, match="exists and is not a prepared dataset and nothing else"):
        run(write(), data.directory)


def test_a_file_as_out_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CtsmError, match="choose another --out"):
        run(write(), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_an_empty_folder_and_an_old_dataset_are_replaced(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "out").mkdir()
    first = run(write(), tmp_path / "out")
    (first.directory / "manifest.json").write_text('{"format": 0}')  # as of an earlier version
    second = run(write(), tmp_path / "out", vocabulary="train")
    assert second.manifest["vocabulary"]["words_of"] == "train"


@pytest.mark.parametrize("corpus", [CORPUS[3:], CORPUS[2:]], ids=["none", "one without a reply"])
def test_training_needs_an_example(tmp_path: Path, write: Callable[..., Path], corpus: list[Any]) -> None:
    with pytest.raises(CtsmError, match=r"dialogues\.jsonl: holds no training conversation with a reply"):
        run(write(corpus), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"vector_size": 0}, "--vector-size is 0"),
        ({"vector_size": -3}, "--vector-size is -3"),
        ({"seed": -1}, "--seed is -1"),
        ({"vad": "absent.txt"}, "absent.txt"),
        ({"vectors": Path("absent.txt")}, "absent.txt"),
        ({"inferences": "crystal ball"}, "crystal ball"),
        ({"inferences": "file:absent.jsonl"}, "absent.jsonl"),
    ],
)
def test_wrong_options_leave_nothing(
    tmp_path: Path, write: Callable[..., Path], options: dict[str, Any], part: str
) -> None:
    dialogues = write()
    with pytest.raises(CtsmError, match=part):
        run(dialogues, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == [dialogues]


def test_the_cache_of_inferences_survives_in_its_own_place(tmp_path: Path, write: Callable[..., Path]) -> None:
    known = tmp_path / "known.jsonl"
    known.write_text(json.dumps({"utterance": "The zebra left.", "xReact": ["sad"]}) + "\n")
    for inside in (tmp_path / "out" / "cache.jsonl", tmp_path / "out" / "deep" / ".." / "cache.jsonl"):
        with pytest.raises(CtsmError, match="lies inside --out"):
            run(write(), tmp_path / "out", inferences=f"file:{known}", inferences_cache=inside)
    cache = tmp_path / "outside" / "cache.jsonl"
    first = run(write(), tmp_path / "out", inferences=f"file:{known}", inferences_cache=cache)
    content = cache.read_text()
    assert "The zebra left." in content
    second = run(write(), tmp_path / "out", inferences=f"file:{known}", inferences_cache=cache)
    assert cache.read_text() == content
    assert first.fingerprint == second.fingerprint


def test_a_full_disk_leaves_nothing_new(
    tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write and each flush fails once: what stood at --out before (nothing, or a dataset) still stands there."""
    dialogues = write()
    out = tmp_path / "home" / "out"
    out.parent.mkdir()
    calls = {"count": 0, "fail_at": -1}

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            calls["count"] += 1
            if calls["count"] == calls["fail_at"]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return wrapped

    monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes))
    monkeypatch.setattr(Path, "open", failing(Path.open))
    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    for vocabulary in ("train", "all"):
        failures = 0
        for place in range(1, 200):
            before = snapshot(tmp_path)
            calls.update(count=0, fail_at=place)
            try:
                prepare(PrepareOptions(str(dialogues), vector_size=4, vocabulary=vocabulary), out)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failures += 1
            else:
                break
            finally:
                calls["fail_at"] = -1
            assert [path.name for path in out.parent.iterdir()] in ([], ["out"])
            # only the last flush comes after the exchange: then the new dataset is there, whole
            assert snapshot(tmp_path) == before or PreparedData(out).manifest["vocabulary"]["words_of"] == vocabulary
        assert failures > 15
        assert PreparedData(out).manifest["vocabulary"]["words_of"] == vocabulary


def test_dialogues_of_ones_own_are_not_labelled_as_empatheticdialogues(tiny_dialogues: Path, tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    (folder / "talks.jsonl").write_bytes(tiny_dialogues.read_bytes())
    for number, source in enumerate((tiny_dialogues, folder)):
        manifest = prepare(PrepareOptions(str(source), vector_size=8), tmp_path / str(number))
        (resource,) = manifest["resources"]
        assert (resource["role"], resource["terms"]) == ("dialogues", "those of the dialogues' owner")
