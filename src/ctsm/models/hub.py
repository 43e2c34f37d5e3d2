"""Sharing model directories on the Hugging Face Hub, without any pickle and without lexicon values by accident."""

from __future__ import annotations

from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.files import read_json
from ctsm.models.bundle import CONFIG, resolve_directory

FILES = ["config.json", "model.safetensors", "vocabulary.txt", "inferences/*", "extras/*", "README.md"]


def download(repository: str, revision: str | None = None) -> Path:
    """Download a model directory ("user/name") and return where it is; only safetensors and text files are taken.

    Raises:
        CtsmError: there is no such repository, or no way to reach it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CtsmError(
            f"{repository}: neither a folder here nor a model on the Hub ({reason}); check the name."
        ) from None


def push_to_hub(directory: Path, repository: str, i_may_redistribute: bool = False, private: bool = False) -> str:
    """Publish a model directory and return its address.

    Args:
        directory: a run or a model directory.
        repository: "user/name".
        i_may_redistribute: confirms the right to publish restricted resources that the directory holds.
        private: whether only its owner sees it.

    Raises:
        CtsmError: the directory holds restricted values (NRC-VAD) and `i_may_redistribute` is False.
    """
    directory = resolve_directory(directory)
    refuse_restricted(directory, i_may_redistribute)
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repository, folder_path=directory, allow_patterns=FILES))


def refuse_restricted(directory: Path, i_may_redistribute: bool) -> None:
    """Raise a CtsmError when a model directory holds values that may not be passed on."""
    resources = read_json(directory / CONFIG, "the configuration of a model directory")["data"]["resources"]
    terms = [f"{resource['file']} ({resource['terms']})" for resource in resources if resource["restricted"]]
    if terms and not i_may_redistribute:
        raise CtsmError(
            f"{directory}: holds values of {', '.join(terms)}; train with a lexicon you may publish, "
            "or confirm your right with i_may_redistribute."
        )
