from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.knowledge.conceptnet import read_assertions, related_words

KEPT = ("IsA", "Causes", "RelatedTo", "UsedFor", "Desires")
DROPPED = ("Antonym", "AtLocation", "Synonym", "FormOf", "NotDesires", "dbpedia/genre", "MadeOf", "CreatedBy")
TERMS = ("dog", "joy", "pain", "party", "rain")
INTENSITY = {"joy": 0.9, "pain": 0.9, "party": 0.7}
ASSERTIONS = st.tuples(
    st.sampled_from(KEPT + DROPPED),
    st.sampled_from(("en", "de")),
    st.sampled_from(TERMS),
    st.sampled_from(("en", "fr")),
    st.sampled_from(TERMS),
    st.sampled_from((0.1, 0.99, 1.0, 2.0, 3)),
)


def line(relation: str, start: str, end: str, facts: object) -> str:
    return f"/a/[/r/{relation}/,{start}/,{end}/]\t/r/{relation}\t{start}\t{end}\t{json.dumps(facts)}"


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(text + "\n" for text in lines), encoding="utf-8")
    return path


@given(st.lists(ASSERTIONS, max_size=25))
def test_related_words_agree_with_the_rules_written_out(
    tmp_path_factory: pytest.TempPathFactory, assertions: list[tuple[str, str, str, str, str, float]]
) -> None:
    lines = [
        line(relation, f"/c/{first}/{start}/n", f"/c/{second}/{end}", {"weight": weight, "license": "x"})
        for relation, first, start, second, end, weight in assertions
    ]
    path = write(tmp_path_factory.mktemp("conceptnet") / "c.csv", lines)
    words = set(TERMS) - {"rain"}
    heaviest: dict[tuple[str, str], float] = {}
    for relation, first, start, second, end, weight in assertions:
        if relation in DROPPED or (first, second) != ("en", "en") or weight < 1 or start == end:
            continue
        for word, concept in ((start, end), (end, start)):
            if word in words and concept in INTENSITY:
                heaviest[word, concept] = max(weight, heaviest.get((word, concept), 0.0))
    expected: dict[str, list[str]] = {}
    for word in words:
        own = [concept for other, concept in heaviest if other == word]
        # sorts are stable: the last key first
        own.sort()
        own.sort(key=lambda concept: heaviest[word, concept], reverse=True)
        own.sort(key=lambda concept: INTENSITY[concept], reverse=True)
        if own:
            expected[word] = own
    if expected:
        assert related_words(path, INTENSITY, words) == expected
    else:
        with pytest.raises(CtsmError, match="relates no word of the dialogues to an emotional one"):
            related_words(path, INTENSITY, words)


def test_parts_of_speech_gzip_and_other_sites(tmp_path: Path) -> None:
    lines = [
        line("IsA", "/c/en/puppy/n/wn/animal", "/c/en/young_dog", {"weight": 2.5}),
        "",
        "/a/x\t/r/ExternalURL\t/c/en/dog\thttp://example.org/dog\tno JSON is read here",
        "/a/x\t/r/IsA\t/c/de/hund\t/c/en/dog\tnor here",
        line("dbpedia/genre", "/c/en/jazz", "/c/en/music", {"weight": 1}),
    ]
    path = tmp_path / "c.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert list(read_assertions(path)) == [("IsA", "puppy", "young_dog", 2.5), ("dbpedia", "jazz", "music", 1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/a/x\t/r/IsA\t/c/en/a\t/c/en/b", r"line 2: 4 tab-separated columns, expected 5 \(URI, relation, .*"),
        ("/a/x\t/r/IsA\t/c/de/a\t/c/en/b\t{}\tmore", "line 2: 6 tab-separated columns, .*"),
        ("/a/x\tIsA\t/c/en/a\t/c/en/b\t{}", r"line 2: the second column is no relation \(/r/\.\.\.\); give .*"),
        ("/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t{", "line 2: the last column is not JSON with a sensible number .*"),
        ("/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t[1]", "line 2: the last column is not JSON with .*"),
        ("/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t{}", "line 2: the last column is not JSON with .*"),
        ('/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": "1"}', "line 2: the last column is not JSON with .*"),
        ('/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": true}', "line 2: the last column is not JSON with .*"),
        ('/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": NaN}', "line 2: the last column is not JSON with .*"),
        ('/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": -1}', "line 2: the last column is not JSON with .*"),
        ('/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": 1e999}', "line 2: the last column is not JSON with .*"),
        ('/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t{"weight": 1' + "0" * 400 + "}", "line 2: the last column is not JSON .*"),
        ("/a/x\t/r/IsA\t/c/en/a\t/c/en/b\t" + "[" * 100_000, "line 2: the last column is not JSON .*"),
    ],
)
def test_a_broken_line_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "c.csv", [line("IsA", "/c/en/a", "/c/en/b", {"weight": 1}), text])
    with pytest.raises(CtsmError, match=r"c\.csv, " + message + r"\.\Z") as error:
        list(read_assertions(path))
    assert str(error.value).count("\n") == 0


def test_bytes_that_are_not_text_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b'/a/x\t/r/IsA\t/c/en/\xff\t/c/en/b\t{"weight": 1}\n')
    with pytest.raises(CtsmError, match="line 1: not UTF-8"):
        list(read_assertions(path))
    with pytest.raises(CtsmError, match=r"no such file \(the ConceptNet assertions\)"):
        list(read_assertions(tmp_path / "absent.csv"))


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("conceptnet") / "c.csv"
    path.write_text(text, encoding="utf-8")
    try:
        assertions = list(read_assertions(path))
    except CtsmError:
        return
    assert all(weight >= 0 for *_, weight in assertions)
