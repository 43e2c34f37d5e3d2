"""Publishing a model directory: what is refused, and what goes up. The Hub's client is one that only remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from ctsm.config import RunConfig
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.models.bundle import DataFacts, save_bundle
from ctsm.models.hub import push_to_hub
from ctsm.training.loop import build_model


class Client:
    """In place of `HfApi`: what was asked of all clients, and the files that an upload would take."""

    asked: list[tuple[str, dict[str, Any]]]

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.asked.append(("create", {"repo_id": repo_id, **options}))

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str]) -> str:
        there = sorted(str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file())
        taken = list(filter_repo_objects(there, allow_patterns=allow_patterns))
        self.asked.append(("upload", {"repo_id": repo_id, "folder": folder_path, "files": taken}))
        return f"https://hub.example/{repo_id}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What was asked of the Hub's client, in order."""
    client = type("Bound", (Client,), {"asked": []})
    monkeypatch.setattr(huggingface_hub, "HfApi", client)
    return client.asked


@pytest.fixture
def run(prepared: Path, tiny_config: RunConfig, tmp_path: Path) -> Path:
    """A run directory with a best model; its resources, the sample's, are free."""
    data = PreparedData(prepared)
    facts = DataFacts.of(data.manifest)
    save_bundle(tmp_path / "run" / "best", build_model(tiny_config, data), tiny_config, prepared, facts, {})
    return tmp_path / "run"


def restrict(model_directory: Path) -> None:
    """Say that the lexicon is one that may not be passed on."""
    config = json.loads((model_directory / "config.json").read_text(encoding="utf-8"))
    (lexicon,) = (resource for resource in config["data"]["resources"] if resource["role"] == "vad")
    lexicon.update(restricted=True, terms="research only")
    (model_directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_a_model_of_free_resources_goes_up(run: Path, asked: list[tuple[str, dict[str, Any]]]) -> None:
    files = sorted(str(path.relative_to(run / "best")) for path in (run / "best").rglob("*") if path.is_file())
    assert {"config.json", "model.safetensors", "vocabulary.txt"} < set(files)
    (run / "best" / "optimizer.bin").write_bytes(b"not of the model")
    assert push_to_hub(run, "somebody/ctsm") == "https://hub.example/somebody/ctsm"
    assert asked == [
        ("create", {"repo_id": "somebody/ctsm", "private": False, "exist_ok": True}),
        ("upload", {"repo_id": "somebody/ctsm", "folder": run / "best", "files": files}),
    ]


def test_nothing_goes_up_of_a_model_with_restricted_values(run: Path, asked: list[tuple[str, dict[str, Any]]]) -> None:
    restrict(run / "best")
    for private in (False, True):
        with pytest.raises(CtsmError, match=r"best: holds values of .*\(research only\); .* i_may_redistribute\.\Z"):
            push_to_hub(run / "best", "somebody/ctsm", private=private)
    assert asked == []


def test_whoever_has_the_right_may_publish_them(run: Path, asked: list[tuple[str, dict[str, Any]]]) -> None:
    restrict(run / "best")
    push_to_hub(run / "best", "somebody/ctsm", i_may_redistribute=True, private=True)
    assert [name for name, _ in asked] == ["create", "upload"]
    assert asked[0][1]["private"] is True
    assert asked[1][1]["folder"] == run / "best"
