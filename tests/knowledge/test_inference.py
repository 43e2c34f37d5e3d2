from __future__ import annotations

import fcntl
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.knowledge import inference
from ctsm.knowledge.inference import (
    EMPTY,
    RELATIONS,
    clean_phrases,
    from_record,
    infer_with_cache,
    load_source,
    open_source,
    to_record,
)


class Counting:
    """A source that answers with the utterance's own words and remembers what it was asked."""

    name = "counting"

    def __init__(self, option=1, fail_at=None):
        self.option, self.fail_at, self.asked = option, fail_at, []

    def describe(self):
        return {"backend": self.name, "option": self.option}

    def infer(self, utterances):
        if self.fail_at is not None and self.fail_at in utterances:
            raise KeyboardInterrupt
        self.asked += utterances
        return [self.answer(utterance) for utterance in utterances]

    def save(self, directory):
        raise NotImplementedError

    @staticmethod
    def answer(utterance):
        return (clean_phrases(utterance.split()), (), (f"to say {len(utterance)}",), (), ("glad",))


@pytest.mark.parametrize(
    ("phrases", "kept"),
    [
        (["to rest", "none", "None.", " none ", "", "  ", "."], ("to rest",)),
        (["a", "b", "a", " a", "c", "d", "e", "f"], ("a", "b", "c", "d", "e")),
        (["to  see\ta film "], ("to see a film",)),
        (["none of it"], ("none of it",)),
        ([], ()),
    ],
)
def test_clean_phrases(phrases, kept):
    assert clean_phrases(phrases) == kept


PHRASES = st.lists(st.text(max_size=6), max_size=7).map(clean_phrases)


@given(utterance=st.text(), inferences=st.tuples(*[PHRASES] * 5))
def test_records_keep_everything(utterance, inferences):
    record = json.loads(json.dumps(to_record(utterance, inferences)))
    assert list(record) == ["utterance", *RELATIONS]
    assert from_record(record, "here") == (utterance, inferences)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([], "JSON object"),
        ({"xReact": ["glad"]}, "string 'utterance'"),
        ({"utterance": 3}, "string 'utterance'"),
        ({"utterance": "a", "xReacts": ["glad"]}, "unknown key 'xReacts'"),
        ({"utterance": "a", "xReact": "glad"}, "'xReact' is not a list"),
        ({"utterance": "a", "xReact": [1]}, "'xReact' is not a list"),
    ],
)
def test_broken_records_are_refused(record, said):
    with pytest.raises(CtsmError, match=f"f.jsonl, line 7: .*{said}"):
        from_record(record, "f.jsonl, line 7")


def test_missing_relations_are_empty():
    assert from_record({"utterance": "a", "xReact": ["glad"]}, "")[1] == ((), (), (), (), ("glad",))


@pytest.mark.parametrize("spec", ["", "gpt", "none:x", "comets:x", "None"])
def test_unknown_backends_are_refused(spec):
    with pytest.raises(CtsmError, match=r"choose one of comet\[:DIR\], atomic:FILE, file:FILE and none"):
        open_source(spec)


@pytest.mark.parametrize("backend", ["atomic", "file"])
def test_backends_that_need_a_file_say_so(backend, tmp_path):
    for spec in (backend, f"{backend}:"):
        with pytest.raises(CtsmError, match=f"write {backend}:FILE"):
            open_source(spec)
    with pytest.raises(CtsmError, match="no such file"):
        open_source(f"{backend}:{tmp_path / 'missing'}")
    with pytest.raises(CtsmError, match="is a folder"):
        open_source(f"{backend}:{tmp_path}")


def test_none_is_always_empty_and_survives_saving(tmp_path):
    source = open_source("none")
    source.save(tmp_path / "model")
    for one in (source, load_source(tmp_path / "model")):
        assert one.describe() == {"backend": "none"}
        assert one.infer(["a", "b"]) == [EMPTY, EMPTY]


@pytest.mark.parametrize("content", ["[]", "{}", '{"backend": "oracle"}', '{"backend": "comet"}'])
def test_an_unknown_saved_source_is_refused(tmp_path, content):
    (tmp_path / "source.json").write_text(content)
    with pytest.raises(CtsmError, match=r"source\.json"):
        load_source(tmp_path)


def test_a_missing_saved_source_is_refused(tmp_path):
    with pytest.raises(CtsmError, match=r"source\.json: no such file"):
        load_source(tmp_path)


def test_the_cache_is_filled_once_and_extended(tmp_path):
    cache = tmp_path / "deep" / "cache.jsonl"
    first = Counting()
    answers = infer_with_cache(first, ["one two", "three", "one two"], cache)
    assert answers == [Counting.answer(text) for text in ("one two", "three", "one two")]
    assert first.asked == ["one two", "three"]
    second = Counting()
    assert infer_with_cache(second, ["three", "four"], cache) == [Counting.answer("three"), Counting.answer("four")]
    assert second.asked == ["four"]
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    assert lines[0] == {"source": {"backend": "counting", "option": 1}}
    assert [line["utterance"] for line in lines[1:]] == ["one two", "three", "four"]


def test_without_a_cache_utterances_are_still_asked_once():
    source = Counting()
    assert len(infer_with_cache(source, ["a", "b", "a"], None)) == 3
    assert source.asked == ["a", "b"]


def test_a_finished_cache_is_a_file_source(tmp_path):
    cache = tmp_path / "cache.jsonl"
    odd = 'say "hi"\u2028 😀 \x85 \ud800'
    infer_with_cache(Counting(), ["one", odd], cache)
    source = open_source(f"file:{cache}")
    assert source.infer(["one", "unknown", odd]) == [Counting.answer("one"), EMPTY, Counting.answer(odd)]
    assert source.describe()["made_by"] == {"backend": "counting", "option": 1}


def test_an_interrupted_cache_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "CHUNK", 2)
    cache = tmp_path / "cache.jsonl"
    texts = [f"word{number}" for number in range(7)]
    with pytest.raises(KeyboardInterrupt):
        infer_with_cache(Counting(fail_at="word5"), texts, cache)
    # A line that a crash cut off in the middle.
    with cache.open("a") as stream:
        stream.write('{"utterance": "wor')
    steps = []
    source = Counting()
    answers = infer_with_cache(source, texts, cache, lambda done, total: steps.append((done, total)))
    assert answers == [Counting.answer(text) for text in texts]
    assert source.asked == ["word4", "word5", "word6"]
    assert steps == [(6, 7), (7, 7)]
    assert [json.loads(line).get("utterance") for line in cache.read_text().splitlines()] == [None, *texts]


@pytest.mark.parametrize("content", ["", '{"source": {"back'])
def test_a_cache_that_stopped_before_its_header_is_begun_again(tmp_path, content):
    cache = tmp_path / "cache.jsonl"
    cache.write_text(content)
    assert infer_with_cache(Counting(), ["a"], cache) == [Counting.answer("a")]
    assert infer_with_cache(Counting(fail_at="a"), ["a"], cache) == [Counting.answer("a")]


def test_a_cache_of_other_options_is_refused_and_kept(tmp_path):
    cache = tmp_path / "cache.jsonl"
    infer_with_cache(Counting(), ["a"], cache)
    before = cache.read_bytes()
    with pytest.raises(CtsmError, match="made by another source or with other options"):
        infer_with_cache(Counting(option=2), ["a"], cache)
    assert cache.read_bytes() == before


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["no json"], "line 1: not JSON"),
        (["[]"], "line 1: .*another source"),
        (['{"source": {"backend": "counting", "option": 1}}', "{broken"], "line 2: not JSON"),
        (['{"source": {"backend": "counting", "option": 1}}', '{"utterance": 1}'], "line 2: expected a JSON object"),
        (["\udcff"], "not UTF-8"),
    ],
)
def test_a_broken_cache_is_refused(tmp_path, lines, said):
    cache = tmp_path / "cache.jsonl"
    cache.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    with pytest.raises(CtsmError, match=said):
        infer_with_cache(Counting(), ["a"], cache)


def test_a_cache_in_use_and_a_folder_are_refused(tmp_path):
    cache = tmp_path / "cache.jsonl"
    with cache.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(CtsmError, match="another process"):
            infer_with_cache(Counting(), ["a"], cache)
    with pytest.raises(CtsmError, match="is a folder"):
        infer_with_cache(Counting(), ["a"], tmp_path)
