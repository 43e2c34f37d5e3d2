from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.knowledge import atomic
from ctsm.knowledge.atomic import AtomicSource, build_index, nearest_events
from ctsm.knowledge.event_words import content_words, sentences
from ctsm.knowledge.inference import EMPTY, PHRASES, RELATIONS, load_source, open_source

WORDS = ["dog", "cat", "bird", "park", "sing", "swim", "cook", "bread", "rain", "train"]
EVENT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(lambda words: "PersonX " + " ".join(words))
PHRASE = st.sampled_from([f"phrase {letter}" for letter in "abcdefghij"])
RELATION = st.lists(PHRASE, max_size=7, unique=True).map(tuple)
EVENTS = st.dictionaries(EVENT, st.tuples(*[RELATION] * 5), min_size=1, max_size=12)
UTTERANCE = st.lists(
    st.lists(st.sampled_from([*WORDS, "unknownword", "the"]), max_size=5).map(" ".join), max_size=3
).map(". ".join)


def dense_similarity(events, utterance):
    """TF-IDF cosine of every sentence with every event, from dense vectors; the largest per event: [N]."""
    bags = [Counter(content_words(head)) for head in events]
    vocabulary = sorted(set().union(*bags))
    present = np.array([[bag[word] > 0 for word in vocabulary] for bag in bags]).reshape(len(bags), -1)
    idf = np.log((1 + len(bags)) / (1 + present.sum(axis=0))) + 1

    def vector(bag):
        row = np.array([bag[word] for word in vocabulary]) * idf
        length = np.sqrt((row**2).sum())
        return row / length if length else row

    rows = np.array([vector(bag) for bag in bags])
    best = np.zeros(len(bags))
    for sentence in sentences(utterance):
        best = np.maximum(best, rows @ vector(Counter(content_words(sentence))))
    return best


@given(events=EVENTS, utterances=st.lists(UTTERANCE, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_similarities_agree_with_dense_vectors(events, utterances):
    index = build_index(events)
    for utterance, (found, scores) in zip(utterances, nearest_events(index, utterances), strict=True):
        expected = dense_similarity(events, utterance)
        assert sorted(found.tolist()) == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(scores, expected[found], rtol=1e-5)
        assert (np.diff(scores) <= 0).all()


def written_out_votes(events, utterance):
    """The phrases that should be chosen, with their votes, from dense similarities and plain dictionaries."""
    similarity = dense_similarity(events, utterance)
    floor = 0.5 * similarity.max()
    votes = [Counter() for _ in RELATIONS]
    for score, relations in zip(similarity, events.values(), strict=True):
        # Similarities at the very border of the floor may round either way: the caller skips such cases.
        if score > 0 and score >= floor:
            for relation, phrases in enumerate(relations):
                for phrase in phrases:
                    votes[relation][phrase] += score**3
    near_floor = bool((np.abs(similarity - floor) < 1e-5)[similarity > 0].any())
    return votes, near_floor


@given(events=EVENTS, utterance=UTTERANCE)
@settings(max_examples=100, deadline=None)
def test_phrases_agree_with_votes_written_out(events, utterance):
    votes, near_floor = written_out_votes(events, utterance)
    if near_floor:
        return
    [inferences] = AtomicSource(build_index(events), {}).infer([utterance])
    for chosen, counted in zip(inferences, votes, strict=True):
        assert len(chosen) == len(set(chosen)) == min(PHRASES, len(counted))
        best = sorted(counted.values(), reverse=True)[: len(chosen)]
        assert [counted[phrase] for phrase in chosen] == pytest.approx(best, rel=1e-4)


def test_only_the_nearest_events_vote(monkeypatch):
    monkeypatch.setattr(atomic, "NEAREST", 2)
    names = ["PersonX dog", "PersonX dog cat", "PersonX dog cat bird"]
    events = {name: ((f"phrase {row}",), (), (), (), ()) for row, name in enumerate(names)}
    index = build_index(events)
    [(found, _)] = nearest_events(index, ["A dog."])
    assert found.tolist() == [0, 1]
    assert AtomicSource(index, {}).infer(["A dog."])[0][0] == ("phrase 0", "phrase 1")
    # Each sentence has its own two nearest events; the utterance keeps two altogether.
    [(found, _)] = nearest_events(index, ["A dog. A dog, a cat and a bird."])
    assert found.tolist() == [0, 2]


def test_equal_events_and_equal_phrases_come_in_file_order():
    phrases = tuple(f"phrase {letter}" for letter in "hgfedcba")
    events = {f"PersonX dog {'the ' * copy}".strip(): ((), (), (), (), (phrases[copy],)) for copy in range(8)}
    [(found, _)] = nearest_events(build_index(events), ["dog"])
    assert found.tolist() == list(range(8))
    assert AtomicSource(build_index(events), {}).infer(["dog"])[0][4] == phrases[:5]


def test_one_sentence_of_many_is_enough_and_far_events_are_left_out():
    events = {
        "PersonX loses PersonX's dog": ((), (), ("to search the park",), (), ("sad", "worried")),
        "PersonX bakes bread": ((), (), (), (), ("proud",)),
        "PersonX walks a dog": ((), (), (), (), ("relaxed",)),
        "PersonX does n't find the dog": ((), (), (), (), ("desperate",)),
    }
    source = AtomicSource(build_index(events), {})
    [inferences] = source.infer(["It was a long day and much happened. My dogs got lost! What would you do?"])
    assert inferences[2] == ("to search the park",)
    assert inferences[4][:2] == ("sad", "worried")
    assert "proud" not in inferences[4]
    assert source.infer(["I couldn't find it"])[0][4] == ("desperate",)
    assert "desperate" not in source.infer(["I found it: my dog"])[0][4][:1]


def test_utterances_that_share_no_word_have_no_inferences():
    source = AtomicSource(build_index({"PersonX dog": (("phrase",), (), (), (), ())}), {})
    assert source.infer(["", "...", "quite another matter", "😀"]) == [EMPTY] * 4
    assert source.infer([]) == []


@given(events=EVENTS, utterances=st.lists(UTTERANCE, max_size=5))
@settings(max_examples=40, deadline=None)
def test_one_by_one_equals_all_at_once(events, utterances):
    source = AtomicSource(build_index(events), {})
    repeated = [*utterances, *utterances[::-1]]
    assert source.infer(repeated) == [source.infer([utterance])[0] for utterance in repeated]


def test_batches_do_not_matter(monkeypatch):
    events = {f"PersonX {first} {second}": ((first,), (second,), (), (), ()) for first in WORDS for second in WORDS}
    source = AtomicSource(build_index(events), {})
    utterances = [
        f"{first} then {second}. A {third}" for first, second, third in zip(WORDS, WORDS[3:], WORDS[5:], strict=False)
    ]
    whole = source.infer(utterances)
    monkeypatch.setattr(atomic, "BATCH", 2)
    assert source.infer(utterances) == whole


@pytest.fixture
def atomic_file(tmp_path):
    path = tmp_path / "atomic.tsv"
    lines = [f"PersonX {word} {other}\txReact\tfeels {word}\n" for word in WORDS for other in WORDS if word < other]
    lines += [f"PersonX {word}\txWant\tto {word}\n" for word in WORDS]
    path.write_text("".join(lines))
    return path


def test_save_and_load_give_the_same_answers(atomic_file, tmp_path):
    source = open_source(f"atomic:{atomic_file}")
    source.save(tmp_path / "saved")
    loaded = load_source(tmp_path / "saved")
    utterances = [f"The {word}s in the {other}." for word in WORDS for other in WORDS]
    assert loaded.infer(utterances) == source.infer(utterances)
    assert loaded.describe() == source.describe() == json.loads(json.dumps(source.describe()))
    assert source.describe()["events"] == 55
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "events.json",
        "events.safetensors",
        "source.json",
    ]


@pytest.mark.parametrize("name", ["events.json", "events.safetensors"])
def test_a_saved_index_without_a_file_or_with_a_damaged_one_is_refused(atomic_file, tmp_path, name):
    open_source(f"atomic:{atomic_file}").save(tmp_path / "saved")
    path = tmp_path / "saved" / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CtsmError, match="events"):
        load_source(tmp_path / "saved")
    path.unlink()
    with pytest.raises(CtsmError, match="no such file"):
        load_source(tmp_path / "saved")


def test_a_saved_index_whose_parts_do_not_fit_is_refused(atomic_file, tmp_path):
    open_source(f"atomic:{atomic_file}").save(tmp_path / "saved")
    path = tmp_path / "saved" / "events.json"
    texts = json.loads(path.read_text())
    for broken in (
        texts | {"words": texts["words"][1:]},
        texts | {"phrases": texts["phrases"][1:]},
        {"words": texts["words"]},
        [],
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(CtsmError, match="damaged index of events"):
            load_source(tmp_path / "saved")


def test_a_saved_index_of_another_version_is_refused(atomic_file, tmp_path):
    open_source(f"atomic:{atomic_file}").save(tmp_path / "saved")
    path = tmp_path / "saved" / "source.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))
    with pytest.raises(CtsmError, match="version 0"):
        load_source(tmp_path / "saved")
