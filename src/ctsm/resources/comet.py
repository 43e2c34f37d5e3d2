"""Turning COMET-ATOMIC-2020's published checkpoint into safetensors, once, in a process of its own.

The publisher's folder holds `pytorch_model.bin`, which is a pickle. This module makes the project's only call of
`torch.load`, with `weights_only=True` (tensors and plain containers, nothing that runs code), and it runs as

    python -m ctsm.resources.comet SOURCE DESTINATION

so that no process that goes on to do other work ever unpickles anything, and a crash or a lack of memory in there ends
in a sentence. What `weights_only` refuses is refused for good.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctsm.errors import CtsmError
from ctsm.files import atomic_directory, describe_os_error, read_json, require_file, sha256_of, write_json
from ctsm.resources.unpack import extract_members

if TYPE_CHECKING:
    import torch

WEIGHTS = "pytorch_model.bin"
REQUIRED = ("config.json", "vocab.json", "merges.txt")
OPTIONAL = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
SHARED = "model.shared.weight"
TIED = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
"""BART's other names for its one embedding table; `transformers` ties them again when it loads."""

_ERROR = "error: "


def convert_archive(archive: Path, destination: Path, limit: int) -> None:
    """Unpack the published zip archive and convert the checkpoint in it, in a child process.

    Args:
        archive: the downloaded zip file.
        destination: the folder to create or replace; it appears only when everything is in it.
        limit: bytes the unpacked files may have together.

    Raises:
        CtsmError: the archive or the checkpoint in it is damaged, hostile or of another kind, or memory ran out.
    """
    with tempfile.TemporaryDirectory(
        dir=destination.absolute().parent, prefix=f".{destination.name}.unpacked."
    ) as name:
        extract_members(archive, (*REQUIRED, WEIGHTS), OPTIONAL, Path(name), limit)
        # -P keeps the current folder off the module path, where a file called torch.py would be found first.
        command = [sys.executable, "-P", "-m", "ctsm.resources.comet", name, str(destination)]
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if child.returncode == 0:
        return
    said = [line.removeprefix(_ERROR) for line in child.stderr.splitlines() if line.startswith(_ERROR)]
    if said:
        raise CtsmError(said[-1].replace(name, str(archive)))
    how = f"was killed by signal {-child.returncode}" if child.returncode < 0 else f"failed with {child.returncode}"
    raise CtsmError(
        f"{archive}: the process that converts the checkpoint {how}, most often for lack of memory (about 5 GB are "
        "needed); free some memory and run the same command again."
    )


def convert(source: Path, destination: Path) -> None:
    """Write `destination` with config, tokenizer files and `model.safetensors` from the checkpoint folder `source`.

    `conversion.json` in it records the SHA-256 of the pickle and of the result. Aliases of BART's embedding table are
    left out when they are equal to it and the configuration ties them; any other tensor is stored on its own.

    Raises:
        CtsmError: a file is missing, the pickle holds anything but named tensors, or values or shapes are wrong.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = require_file(source / WEIGHTS, "COMET's checkpoint")
    for name in REQUIRED:
        require_file(source / name, "a part of COMET's checkpoint")
    config = read_json(source / "config.json", "COMET's configuration")
    fingerprint = sha256_of(weights)
    tensors = _read_tensors(weights)
    _check_embeddings(tensors, config, weights)
    left_out = _drop_tied(tensors) if config.get("tie_word_embeddings", True) else []
    with atomic_directory(destination) as folder:
        for name in (*REQUIRED, *OPTIONAL):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        result = folder / "model.safetensors"
        try:
            save_file(tensors, result, metadata={"format": "pt"})
        except SafetensorError as error:
            raise CtsmError(
                f"{destination}: cannot write the model ({error}); free some space and try again."
            ) from error
        record = {
            "source": {"file": WEIGHTS, "sha256": fingerprint, "bytes": weights.stat().st_size},
            "result": {"file": result.name, "sha256": sha256_of(result), "bytes": result.stat().st_size},
            "tensors": len(tensors),
            "left_out_as_tied": left_out,
            "torch": torch.__version__,
        }
        write_json(folder / "conversion.json", record)


def _read_tensors(weights: Path) -> dict[str, torch.Tensor]:
    """Return the checkpoint's tensors, each with memory of its own."""
    import torch

    try:
        loaded = torch.load(weights, map_location="cpu", weights_only=True)
    except MemoryError:
        raise CtsmError(f"{weights}: does not fit into memory; about 5 GB are needed.") from None
    except Exception as error:
        # Damage and hostile content end in many exception types, and the remedy is the same for all of them. torch's
        # own text is left out: it recommends loading without `weights_only`.
        raise CtsmError(
            f"{weights}: cannot be loaded as weights only ({type(error).__name__}), so it is damaged or holds more "
            "than tensors; do not load it in another way, get it again from the publisher."
        ) from error
    if not isinstance(loaded, dict) or not loaded:
        raise CtsmError(f"{weights}: holds a {type(loaded).__name__} where a table of named tensors belongs.")
    tensors: dict[str, torch.Tensor] = {}
    for name in list(loaded):
        value = loaded.pop(name)  # frees the original while the copies grow
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            raise CtsmError(
                f"{weights}: the entry {name!r} is not a plain named tensor; get it again from the publisher."
            )
        if not bool(torch.isfinite(value).all()):
            raise CtsmError(f"{weights}: the tensor {name} holds values that are not finite numbers; get it again.")
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return tensors


def _check_embeddings(tensors: dict[str, torch.Tensor], config: object, weights: Path) -> None:
    """Refuse a checkpoint that is not the BART its configuration describes."""
    if not isinstance(config, dict) or config.get("model_type") != "bart":
        raise CtsmError(f"{weights.parent / 'config.json'}: does not describe a BART model; get it again.")
    expected = (config.get("vocab_size", 50265), config.get("d_model", 1024))  # transformers' defaults for BART
    found = tuple(tensors[SHARED].shape) if SHARED in tensors else None
    if found != expected:
        raise CtsmError(
            f"{weights}: {SHARED} has the shape {found}, but config.json says {expected}; get both files again."
        )


def _drop_tied(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Remove the aliases that repeat the shared embedding table, and return their names."""
    import torch

    repeated = [name for name in TIED if name in tensors and torch.equal(tensors[name], tensors[SHARED])]
    for name in repeated:
        del tensors[name]
    return repeated


def main(arguments: Sequence[str]) -> int:
    """Run the conversion as a program; the one line on standard error is what the parent shows."""
    if len(arguments) != 2:
        print(f"{_ERROR}usage: python -m ctsm.resources.comet SOURCE DESTINATION", file=sys.stderr)
        return 2
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except CtsmError as error:
        print(f"{_ERROR}{error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{_ERROR}{describe_os_error(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
