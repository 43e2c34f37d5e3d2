from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from ctsm.errors import CtsmError
from ctsm.knowledge.inference import EMPTY, load_source, open_source

GLAD = {"utterance": "I won!", "xReact": ["glad", "none", ""], "xWant": ["to tell a friend"]}
SAD = {"utterance": "I lost.", "xReact": ["sad"]}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_answers_from_the_file_and_nothing_else(tmp_path):
    source = open_source(f"file:{write(tmp_path / 'f.jsonl', GLAD, SAD)}")
    assert source.infer(["I lost.", "I won!", "i won!"]) == [
        ((), (), (), (), ("sad",)),
        ((), (), ("to tell a friend",), (), ("glad",)),
        EMPTY,
    ]


def test_describe_names_the_file_and_what_made_it(tmp_path):
    path = write(tmp_path / "f.jsonl", {"source": {"backend": "comet"}}, GLAD)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = {"backend": "file", "file": "f.jsonl", "sha256": digest, "made_by": {"backend": "comet"}}
    assert open_source(f"file:{path}").describe() == expected


def test_gzip_and_blank_lines(tmp_path):
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(gzip.compress(("\n" + json.dumps(SAD) + "\n\n").encode()))
    assert open_source(f"file:{path}").infer(["I lost."])[0][4] == ("sad",)


@pytest.mark.parametrize("header", [True, False])
def test_save_and_load_give_the_same_answers(tmp_path, header):
    records = [{"source": {"backend": "comet"}}] * header + [GLAD, SAD]
    source = open_source(f"file:{write(tmp_path / 'f.jsonl', *records)}")
    source.save(tmp_path / "model")
    (tmp_path / "f.jsonl").unlink()
    loaded = load_source(tmp_path / "model")
    asked = ["I lost.", "I won!", "other"]
    assert loaded.infer(asked) == source.infer(asked)
    assert loaded.describe() == source.describe()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["inferences.jsonl", "source.json"]


def test_the_same_utterance_twice(tmp_path):
    assert open_source(f"file:{write(tmp_path / 'a.jsonl', GLAD, GLAD)}").infer(["I won!"])[0][4] == ("glad",)
    with pytest.raises(CtsmError, match="line 3: this utterance had other inferences"):
        open_source(f"file:{write(tmp_path / 'b.jsonl', SAD, GLAD, GLAD | {'xReact': ['bored']})}")


@pytest.mark.parametrize(
    ("second", "said"), [("{", "line 2: not JSON"), ('{"text": "a"}', "line 2: expected a JSON object with a string")]
)
def test_a_broken_line_is_named(tmp_path, second, said):
    path = write(tmp_path / "f.jsonl", GLAD)
    with path.open("a") as stream:
        stream.write(second + "\n")
    with pytest.raises(CtsmError, match=f"f.jsonl, {said}"):
        open_source(f"file:{path}")


def test_a_saved_folder_without_its_file_is_refused(tmp_path):
    open_source(f"file:{write(tmp_path / 'f.jsonl', GLAD)}").save(tmp_path / "model")
    (tmp_path / "model" / "inferences.jsonl").unlink()
    with pytest.raises(CtsmError, match=r"inferences\.jsonl: no such file"):
        load_source(tmp_path / "model")
