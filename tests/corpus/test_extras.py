"""What some systems need beyond CTSM's data: made as documented, kept apart, and the same for a live conversation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctsm.cli.main import main
from ctsm.corpus.batches import Batch, Groups, Ragged, collated_extras
from ctsm.corpus.encoding import CONCEPTS, encode_concepts, encode_emotion_words
from ctsm.corpus.extras import NEEDS, sub_utterances
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import HASHED_FILES, SPLITS, PreparedData, is_prepared
from ctsm.errors import CtsmError
from ctsm.text.tokenise import tokenise
from ctsm.text.vocabulary import CLS, PAD, UNK

CORPUS = [
    ("train", "c1", "sad", ["My dog died. I cried all night!", "How sad.", "Thanks. The dog was a joyful zorg."]),
    ("train", "c2", "proud", ["My son won a race.", "Great!", "He cried.", "Sad or glad?"]),
    ("dev", "d1", "proud", ["We won the race today.", "Great!", "Thanks."]),
    ("test", "t1", "sad", ["The dog died."], ["Sad."]),
]
EMOLEX = "died\tsadness\t1\ncried\tsadness\t1\nsad\tsadness\t1\nwon\tjoy\t1\ndog\tpositive\t1\nall\tjoy\t1\n"
VAD = {"died": (0.0, 0.9), "race": (0.9, 0.9), "dog": (0.7, 0.5), "night": (0.5, 0.0), "sad": (0.1, 0.7)}
ASSERTIONS = [
    ("Causes", "race", "sad", 2.0), ("RelatedTo", "dog", "race", 1.0), ("IsA", "night", "died", 1.0),
    ("IsA", "son", "dog", 5.0), ("IsA", "son", "race", 0.5), ("Synonym", "son", "died", 3.0),
]  # fmt: skip
KNOWN = {
    "My dog died. I cried all night!": {"xIntent": ["to be sad", "none", "zorgs"], "xReact": ["very sad", "sad"]},
    "my dog died.": {"xWant": ["a dog"], "xReact": ["sad"]},
    "My son won a race.": {"xNeed": ["to train for a race"]},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Write the input files."""
    talk = [
        {"split": split, "id": name, "emotion": emotion, "situation": "x", "turns": [t for part in turns for t in part]}
        for split, name, emotion, *turns in CORPUS
    ]
    files = {
        "talk.jsonl": "\n".join(map(json.dumps, talk)),
        "emolex.txt": EMOLEX,
        "vad.txt": "\n".join(f"{word}\t{v}\t{a}\t0.5" for word, (v, a) in VAD.items()),
        "concepts.csv": "\n".join(
            f'/a/x\t/r/{relation}\t/c/en/{start}\t/c/en/{end}\t{{"weight": {weight}}}'
            for relation, start, end, weight in ASSERTIONS
        ),
        "known.jsonl": "\n".join(json.dumps({"utterance": text, **found}) for text, found in KNOWN.items()),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    return lambda name: str(tmp_path / name)


@pytest.fixture
def options(write: Callable[[str], str]) -> dict[str, Any]:
    return {"dialogues": write("talk.jsonl"), "vad": write("vad.txt"), "vector_size": 4,
            "inferences": f"file:{write('known.jsonl')}"}  # fmt: skip


@pytest.fixture
def everything(options: dict[str, Any], write: Callable[[str], str]) -> dict[str, Any]:
    extras = {"emotion_words": write("emolex.txt"), "concepts": write("concepts.csv")}
    return {**options, **extras, "feedback": True, "cognition": True}


def words_of(data: PreparedData, ids: list[int]) -> str:
    return " ".join(data.vocabulary.words[number] for number in ids)


def test_every_field_as_documented(tmp_path: Path, everything: dict[str, Any]) -> None:
    prepare(PrepareOptions(**everything), tmp_path / "out")
    data = PreparedData(tmp_path / "out")
    train = data.examples("train", NEEDS)
    rows = {name: train.extras[name] for need in NEEDS.values() for name in need.fields}

    def texts(name: str) -> list[Any]:
        extra = rows[name]
        if isinstance(extra, Groups):
            return [[words_of(data, row) for row in extra.group(place)] for place in range(len(train))]
        return [words_of(data, extra.row(place)) for place in range(len(train))]

    # the examples: c1's first reply, c2's first, c2's second; "all" is a function word, "dog" only positive
    assert texts("emotion_words") == ["CLS died cried", "CLS won", "CLS won cried"]
    assert texts("reply_emotion_words") == ["CLS sad", "CLS", "CLS sad"]
    assert texts("feedback_emotion_words") == ["CLS", "CLS cried", "CLS"]
    # c1's last turn is in no example, so its new words are unknown; nothing follows c2's second reply
    assert texts("feedback") == ["CLS UNK . the dog UNK a joyful UNK .", "CLS he cried .", "CLS"]
    assert texts("concepts") == ["died race", "sad", "sad"]
    assert texts("concept_words") == ["night dog", "race", "race"]
    # one sentence: no sub-utterances; "be" and "zorgs" are unknown, "to" and "none" are dropped
    assert texts("utterances") == [
        ["CLS my dog died . i cried all night !", "CLS my dog died .", "CLS i cried all night !"],
        ["CLS my son won a race ."],
        ["CLS he cried ."],
    ]
    assert texts("phrases") == [["CLS sad", "CLS a dog"], ["CLS a race"], []]
    assert texts("reactions") == [["sad", "sad", ""], [""], [""]]
    assert [rows["phrase_relation"].row(place) for place in range(3)] == [[0, 2], [1], []]
    assert [rows["phrase_owner"].row(place) for place in range(3)] == [[0, 1], [0], []]


def test_concepts_follow_the_rules(tmp_path: Path, everything: dict[str, Any]) -> None:
    """Intensity at least 0.6, weight at least 1, no dropped relation, both directions, one concept a word."""
    manifest = prepare(PrepareOptions(**everything), tmp_path / "out")
    data = PreparedData(tmp_path / "out")
    intensity = {word: float(data.words["intensity"][data.vocabulary.id_of(word)]) for word in VAD}
    assert sorted(word for word, value in intensity.items() if value >= 0.6) == ["died", "race", "sad"]
    table = Ragged(*_concept_table(data))
    related = {
        word: words_of(data, table.row(number))
        for number, word in enumerate(data.vocabulary.words)
        if table.row(number)
    }
    # son-race weighs too little, son-died is a synonym and son-dog not intense enough: "son" has none
    assert related == {"race": "sad", "sad": "race", "dog": "race", "night": "died"}
    assert manifest["extras"]["concepts"]["words_with_concepts"] == len(related)


def _concept_table(data: PreparedData) -> tuple[Any, Any]:
    from safetensors.numpy import load_file

    arrays = load_file(data.directory / "extras" / "concepts.safetensors")
    return arrays["concepts"], arrays["concepts_offsets"]


def test_without_them_nothing_changes(tmp_path: Path, options: dict[str, Any], everything: dict[str, Any]) -> None:
    plain = prepare(PrepareOptions(**options), tmp_path / "plain")
    full = prepare(PrepareOptions(**everything), tmp_path / "full")
    assert "extras" not in plain
    assert not (tmp_path / "plain" / "extras").exists()
    assert plain["fingerprint"] == full["fingerprint"]
    for name in (*HASHED_FILES, *(f"{split}.jsonl" for split in SPLITS)):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "full" / name).read_bytes(), name
    assert {name: value for name, value in full.items() if name != "extras"} == plain
    batch = PreparedData(tmp_path / "full").examples("train").batch(np.arange(2))
    assert all(getattr(batch, name) is None for need in NEEDS.values() for name in need.fields)


def test_what_comes_after_the_reply_is_for_training_only(tmp_path: Path, everything: dict[str, Any]) -> None:
    prepare(PrepareOptions(**everything), tmp_path / "out")
    data = PreparedData(tmp_path / "out")
    later = NEEDS["feedback"].fields
    assert set(later) <= set(data.examples("train", NEEDS).extras)
    for split in ("dev", "test"):
        assert not set(later) & set(data.examples(split, NEEDS).extras)
        assert not (data.directory / "extras" / f"feedback.{split}.safetensors").exists()


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"concepts"}, "concepts, which the model needs; run `ctsm prepare` again with --concepts FILE."),
        (
            {"feedback", "emotion_words"},
            "emotion words and the speaker's next turns, which the model needs; run `ctsm prepare` again with "
            "--emotion-words FILE --feedback.",
        ),
        (
            {"cognition"},
            "inferences for each sentence, which the model needs; run `ctsm prepare` again with --cognition.",
        ),
    ],
)
def test_a_need_that_is_not_met_names_its_options(prepared: Path, needs: set[str], message: str) -> None:
    data = PreparedData(prepared)
    data.require(())
    for ask in (lambda: data.require(needs), lambda: data.examples("dev", needs), lambda: data.extras_hashes(needs)):
        with pytest.raises(CtsmError) as error:
            ask()
        assert str(error.value) == f"{prepared}: was prepared without {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emotion_words": None}, "--feedback needs --emotion-words; give both or leave --feedback out."),
        (
            {"emotion_words": None, "feedback": False, "adjectives": True},
            "--adjectives needs --emotion-words; give both or leave --adjectives out.",
        ),
        ({"vad": None}, "--concepts needs --vad; give both or leave --concepts out."),
        ({"inferences": "none"}, "--cognition needs inferences; give --inferences too or leave --cognition out."),
    ],
)
def test_options_that_need_another(
    tmp_path: Path, everything: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CtsmError) as error:
        prepare(PrepareOptions(**{**everything, **changes}), tmp_path / "out")
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


def test_the_command_line(tmp_path: Path, everything: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prepare", "--out", str(tmp_path / "a")]
    for name, value in everything.items():
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag] if value is True else [flag, str(value)]
    assert main(arguments) == 0
    assert "collecting emotion_words, concepts, feedback, cognition" in capsys.readouterr().err
    manifest = prepare(PrepareOptions(**everything), tmp_path / "b")
    assert json.loads((tmp_path / "a" / "manifest.json").read_text()) == manifest


def test_the_manifest_names_inputs_terms_and_files(tmp_path: Path, everything: dict[str, Any]) -> None:
    extras = prepare(PrepareOptions(**everything), tmp_path / "out")["extras"]
    assert set(extras) == set(NEEDS)
    resources = [resource for need in extras.values() for resource in need["resources"]]
    assert [(entry["role"], entry["file"], entry["restricted"]) for entry in resources] == [
        ("emotion_words", "emolex.txt", True),
        ("concepts", "concepts.csv", False),
    ]
    named = {name for need in extras.values() for name in need["files"]}
    assert named == {path.name for path in (tmp_path / "out" / "extras").iterdir()}
    data = PreparedData(tmp_path / "out")
    assert set(data.extras_hashes({"feedback"})) == {"feedback.train.safetensors"}
    assert data.extras_hashes(()) == {}
    assert is_prepared(data.directory)


@pytest.mark.parametrize("spoil", ["other bytes", "absent"])
def test_a_changed_file_is_refused(tmp_path: Path, prepared_all: Path, spoil: str) -> None:
    shutil.copytree(prepared_all, tmp_path / "copy")
    data = PreparedData(tmp_path / "copy")
    for name in ("concepts.train.safetensors", "emotion_words.safetensors"):
        path = tmp_path / "copy" / "extras" / name
        path.write_bytes(path.read_bytes()[:-1]) if spoil == "other bytes" else path.unlink()
    data.examples("train")
    data.examples("dev", {"concepts"})
    expected = "differs from the manifest's SHA-256" if spoil == "other bytes" else "missing from the prepared dataset"
    with pytest.raises(CtsmError, match=rf"concepts\.train\.safetensors: {expected}.*; run `ctsm prepare` again\."):
        data.examples("train", {"concepts"})
    with pytest.raises(CtsmError, match=rf"emotion_words\.safetensors: {expected}.*; run `ctsm prepare` again\."):
        _ = data.words


def test_the_turn_of_a_position_follows_from_the_speakers(prepared_all: Path) -> None:
    """Systems that split a context into its turns need nothing beyond `speakers`."""
    data = PreparedData(prepared_all)
    examples, texts = data.examples("train"), data.texts("train")
    batch = examples.batch(np.arange(len(examples)))
    changed = batch.speakers[:, 1:] != batch.speakers[:, :-1]
    turn_BS = torch.cat([torch.zeros(len(batch), 1, dtype=torch.long), changed.cumsum(dim=1)], dim=1)
    for row, text in enumerate(texts):
        lengths = [len(tokenise(turn)) for turn in text.context]
        expected = [0] + [number + 1 for number, length in enumerate(lengths) for _ in range(length)]
        assert turn_BS[row, : len(expected)].tolist() == expected


GROUPS = st.lists(st.lists(st.lists(st.integers(2, 90), max_size=4), max_size=4), min_size=1, max_size=6)


@given(GROUPS, st.data())
def test_packed_groups_equal_a_loop(groups: list[list[list[int]]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(groups) - 1), max_size=7))
    extra = Groups.from_groups(groups)
    assert [extra.group(place) for place in range(len(groups))] == groups
    rows, places = extra.packed(np.asarray(chosen, dtype=np.int64), PAD)
    flat = [row for place in chosen for row in groups[place]]
    width = max([len(row) for row in flat] + [1])
    assert rows.tolist() == [row + [PAD] * (width - len(row)) for row in flat]
    assert places.shape == (len(chosen), max([len(groups[place]) for place in chosen] + [1]))
    for place, found in zip(chosen, places.tolist(), strict=True):
        count = len(groups[place])
        assert [rows[number].tolist()[: len(row)] for number, row in zip(found, groups[place], strict=False)] == groups[
            place
        ]
        assert found[count:] == [-1] * (len(found) - count)
    assert sorted(places[places >= 0].tolist()) == list(range(len(flat)))


def test_a_batch_holds_what_was_loaded(prepared_all: Path) -> None:
    examples = PreparedData(prepared_all).examples("train", {"concepts", "cognition"})
    batch = examples.batch(np.array([3, 0, 7])).to("cpu")
    asked = {name for need in ("concepts", "cognition") for name in NEEDS[need].fields}
    for name in Batch.__dataclass_fields__:
        value = getattr(batch, name)
        optional = any(name in need.fields for need in NEEDS.values())
        if name in asked or name in ("utterance_row", "phrase_row") or not optional:
            assert value.dtype == torch.int64, name
        else:
            assert value is None, name
    assert batch.utterances is not None and batch.utterance_row is not None and batch.phrase_relation is not None
    assert batch.phrase_row is not None and batch.phrases is not None and batch.concepts is not None
    assert batch.concept_words is not None
    groups = examples.extras["utterances"]
    assert isinstance(groups, Groups)
    for row, example in enumerate((3, 0, 7)):
        found = batch.utterances[batch.utterance_row[row][batch.utterance_row[row] >= 0]]
        assert [[word for word in line if word != PAD] for line in found.tolist()] == groups.group(example)
        last = batch.utterances[batch.utterance_row[row, 0]]
        words = last[last != PAD][1:]
        context = batch.context[row][batch.context[row] != PAD]
        assert torch.equal(context[-len(words) :], words), "the first utterance is the end of the context"
    phrases = examples.extras["phrases"]
    assert isinstance(phrases, Groups)
    for row, example in enumerate((3, 0, 7)):
        found = [batch.phrases[place] for place in batch.phrase_row[row].tolist() if place >= 0]
        assert [line[line != PAD].tolist() for line in found] == phrases.group(example)
    assert len({tuple(line) for line in batch.phrases.tolist()}) == len(batch.phrases), "each phrase once"
    assert len(batch.phrases) < (batch.phrase_row >= 0).sum(), "two examples share a phrase"
    assert torch.equal(batch.phrase_row >= 0, batch.phrase_relation >= 0)
    assert batch.phrase_relation.max() <= 3
    heads = (batch.context[:, :, None] == batch.concept_words[:, None]) & (batch.concepts != PAD)[:, None]
    assert torch.equal(heads.any(dim=1), batch.concepts != PAD), "every concept belongs to a word of the context"


@given(
    st.lists(st.lists(st.integers(0, 8), max_size=3), min_size=9, max_size=9),
    st.lists(st.integers(0, 15), max_size=25),
    st.integers(0, 99),
)
def test_concepts_of_a_context_equal_a_loop(table: list[list[int]], ids: list[int], seed: int) -> None:
    concepts = Ragged.from_rows(table)
    intensity = np.random.default_rng(seed).integers(0, 4, size=len(concepts.values)).astype(np.float32)
    found, owners = encode_concepts(concepts, intensity, ids)
    pairs = []
    seen: set[int] = set()
    for word in ids:
        if word >= 9 or word in seen:
            continue
        seen.add(word)
        for place, concept in enumerate(table[word]):
            pairs.append((intensity[sum(map(len, table[:word])) + place], concept, word))
    best = [pair for level in (3, 2, 1, 0) for pair in pairs if pair[0] == level][:CONCEPTS]
    assert list(zip(found, owners, strict=True)) == [(concept, word) for _, concept, word in best]


@given(st.lists(st.integers(0, 12), max_size=20), st.lists(st.booleans(), min_size=9, max_size=9))
def test_emotion_words_of_a_context_equal_a_loop(ids: list[int], table: list[bool]) -> None:
    found = encode_emotion_words(np.asarray(table), ids)
    assert found == [CLS] + [word for word in ids if word < 9 and table[word]]


def test_sub_utterances() -> None:
    assert sub_utterances("Only one sentence.") == []
    assert sub_utterances("My dog died. I cried! Why?") == ["my dog died.", "i cried!", "why?"]
    assert len(sub_utterances("No. " * 40)) == 8


def test_examples_without_extras_collate_to_nothing() -> None:
    assert collated_extras({}, np.arange(3)) == {}


def test_adjectives_count_where_a_tagger_finds_them(
    tmp_path: Path, everything: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def tagger(texts: Any) -> frozenset[str]:
        seen.extend(texts)
        return frozenset({"great", "died", "unseen"})

    monkeypatch.setattr("ctsm.corpus.prepare.adjectives_of", tagger)
    manifest = prepare(PrepareOptions(**everything, adjectives=True), tmp_path / "out")
    data = PreparedData(tmp_path / "out")
    emotional = {word for word, flag in zip(data.vocabulary.words, data.words["emotional"], strict=True) if flag}
    assert emotional == {"died", "cried", "sad", "won", "great"}
    assert manifest["extras"]["emotion_words"]["adjectives"] == 2, "those that the lexicon lacks"
    assert [" ".join(text) for text in seen] == [
        "my dog died . i cried all night !", "how sad .", "my son won a race .", "great !", "he cried .",
        "sad or glad ?",
    ], "only what training reads"  # fmt: skip
    assert not data.words["emotional"][UNK]


def test_examples_without_phrases_collate() -> None:
    """An utterance may have no inference at all: then there is no row, and no place names one."""
    extras = {"phrases": Groups.from_groups([[], [[CLS, 9]], []]), "phrase_owner": Ragged.from_rows([[], [0], []])}
    none = collated_extras(extras, np.array([0, 2]))
    assert none["phrases"].shape == (0, 1)
    assert none["phrase_row"].tolist() == none["phrase_owner"].tolist() == [[-1], [-1]]
    some = collated_extras(extras, np.array([2, 1, 1]))
    assert some["phrases"].tolist() == [[CLS, 9]]
    assert some["phrase_row"].tolist() == [[-1], [0], [0]]
