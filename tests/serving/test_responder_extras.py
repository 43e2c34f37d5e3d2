"""A model directory answers new text with what the model needs beyond CTSM's data, made as for the prepared corpus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.corpus.extras import NEEDS
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.models.bundle import DataFacts, load_bundle, save_bundle
from ctsm.models.ctsm import CTSM
from ctsm.models.hub import refuse_restricted
from ctsm.serving.responder import Responder
from ctsm.training.loop import build_model


@pytest.fixture
def needy(monkeypatch: pytest.MonkeyPatch) -> None:
    """CTSM that needs everything."""
    monkeypatch.setattr(CTSM, "needs", frozenset(NEEDS))


def save(directory: Path, data_directory: Path, config: RunConfig) -> Path:
    data = PreparedData(data_directory)
    model = build_model(config, data)
    save_bundle(directory, model, config, data_directory, DataFacts.of(data.manifest), {"iteration": 0})
    return directory


@pytest.mark.usefixtures("needy")
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_prepared_example_equals_what_the_responder_builds(
    tmp_path: Path, prepared_all: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    responder = Responder(load_bundle(save(tmp_path / "model", prepared_all, tiny_config)))
    seen: list[Batch] = []
    encode = CTSM.encode

    def remember(model: CTSM, batch: Batch, perceive: bool = False) -> object:
        seen.append(batch)
        return encode(model, batch, perceive)

    monkeypatch.setattr(CTSM, "encode", remember)
    data = PreparedData(prepared_all)
    texts = data.texts(split)
    rows = np.arange(min(len(texts), 12))
    responder.respond_batch([texts[row].context for row in rows])
    expected, (found,) = data.examples(split, set(NEEDS) - {"feedback"}).batch(rows), seen
    for name in Batch.__dataclass_fields__:
        if name not in ("emotion", "target", "target_positions"):
            wanted, value = getattr(expected, name), getattr(found, name)
            assert (wanted is None and value is None) or torch.equal(wanted, value), name
    assert found.utterances is not None and found.concepts is not None and found.emotion_words is not None
    assert found.feedback is None


def test_a_model_directory_holds_only_what_its_model_needs(
    tmp_path: Path, prepared_all: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = save(tmp_path / "plain", prepared_all, tiny_config)
    assert not (plain / "extras").exists()
    monkeypatch.setattr(CTSM, "needs", frozenset({"concepts"}))
    needy = save(tmp_path / "needy", prepared_all, tiny_config)
    assert [path.name for path in (needy / "extras").iterdir()] == ["concepts.safetensors"]
    roles = [
        [resource["role"] for resource in json.loads((folder / "config.json").read_text())["data"]["resources"]]
        for folder in (plain, needy)
    ]
    assert roles == [["dialogues", "vad", "atomic"], ["dialogues", "vad", "atomic", "concepts"]]


def test_emotion_words_keep_a_directory_from_being_published(
    tmp_path: Path, prepared_all: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CTSM, "needs", frozenset({"emotion_words"}))
    folder = save(tmp_path / "model", prepared_all, tiny_config)
    refuse_restricted(folder, i_may_redistribute=False)  # the sample's are free
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["resources"][-1]["role"] == "emotion_words"
    config["data"]["resources"][-1]["restricted"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CtsmError, match=r"holds values of emotions\.txt"):
        refuse_restricted(folder, i_may_redistribute=False)


@pytest.mark.usefixtures("needy")
@pytest.mark.parametrize("spoil", ["absent", "truncated", "another vocabulary"])
def test_a_damaged_directory_is_refused_in_one_sentence(
    tmp_path: Path, prepared_all: Path, tiny_config: RunConfig, spoil: str
) -> None:
    folder = save(tmp_path / "model", prepared_all, tiny_config)
    path = folder / "extras" / "concepts.safetensors"
    if spoil == "absent":
        path.unlink()
    elif spoil == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    else:
        from safetensors.numpy import load, save_file

        arrays = load(path.read_bytes())
        save_file({**arrays, "concepts_offsets": arrays["concepts_offsets"][:-1]}, path)
    with pytest.raises(CtsmError, match=r"concepts\.safetensors: [^\n]*\.\Z"):
        Responder(load_bundle(folder)).respond(["My dog died."])
