"""The prepared dataset on disk: everything training needs, checked when it is opened.

manifest.json            format version, options, counts, inputs with hashes and terms, fingerprint
vocabulary.txt           JSON list, one word a line, special tokens first
words.safetensors        per-word tables
{train,dev,test}.safetensors   ragged integer arrays
{train,dev,test}.jsonl   texts and ids of the examples, for replies files and scores
inferences/              what the inference source needs to answer for a new utterance
extras/                  what some systems need beyond CTSM's data, where asked for (see `corpus.extras`)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ctsm.corpus.batches import Examples, Groups, Ragged
from ctsm.corpus.extras import EXTRAS, NEEDS, WordKnowledge, load_extras, needs_of, split_file, table_file
from ctsm.errors import CtsmError
from ctsm.files import read_json, sha256_of
from ctsm.knowledge.inference import SOURCE_FILE
from ctsm.text.vocabulary import Vocabulary

FORMAT = 1
SPLITS = ("train", "dev", "test")
RAGGED = ("context", "speakers", "target", "cognitive", "reaction")
MANIFEST = "manifest.json"
VOCABULARY = "vocabulary.txt"
WORDS = "words.safetensors"
INFERENCES = "inferences"
HASHED_FILES = (VOCABULARY, WORDS, *(f"{split}.safetensors" for split in SPLITS))
NAMES = frozenset({MANIFEST, INFERENCES, EXTRAS, *HASHED_FILES, *(f"{split}.jsonl" for split in SPLITS)})


@dataclass(frozen=True)
class ExampleText:
    """The readable side of one example.

    Attributes:
        id: "conversation#turn".
        conversation_id: the corpus's own identifier.
        context: the turns before the reply, as written.
        reference: the gold reply, as written.
        reference_tokens: its tokens.
        oov: the context's words that the vocabulary lacks, in the order of their extended ids.
    """

    id: str
    conversation_id: str
    context: tuple[str, ...]
    reference: str
    reference_tokens: tuple[str, ...]
    oov: tuple[str, ...]


class PreparedData:
    """A prepared directory, opened and checked.

    Args:
        directory: what `ctsm prepare` wrote.

    Raises:
        CtsmError: not a prepared directory, another format version, or files that do not match the manifest.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not (directory / MANIFEST).is_file():
            raise CtsmError(f"{directory}: not a prepared dataset (no {MANIFEST}); make one with `ctsm prepare`.")
        self.manifest: dict[str, Any] = read_json(directory / MANIFEST, "the manifest of a prepared dataset")
        version = self.manifest.get("format") if isinstance(self.manifest, dict) else None
        if version != FORMAT:
            raise CtsmError(
                f"{directory}: prepared in format {version!r}, this version reads {FORMAT}; run `ctsm prepare` again."
            )
        if fingerprint(directory) != self.manifest.get("fingerprint"):
            raise CtsmError(f"{directory}: files differ from the manifest's fingerprint; run `ctsm prepare` again.")
        _require(directory / INFERENCES / SOURCE_FILE)
        self.vocabulary = Vocabulary.load(directory / VOCABULARY)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the vocabulary, tables and examples."""
        return str(self.manifest["fingerprint"])

    @cached_property
    def words(self) -> dict[str, Any]:
        """Per-word tables by name: vectors, vad, in_lexicon, idf, intensity, labels; emotional where prepared."""
        tables = _load(self.directory / WORDS)
        if "emotion_words" in self.manifest.get(EXTRAS, {}):
            self._check_extra("emotion_words", table_file("emotion_words"))
            knowledge = WordKnowledge.load(self.directory / EXTRAS, {"emotion_words"}, len(self.vocabulary))
            tables["emotional"] = knowledge.emotional
        return tables

    def require(self, needs: Collection[str]) -> None:
        """Check that the dataset has what a model needs beyond CTSM's data (`corpus.extras.NEEDS`).

        Raises:
            CtsmError: naming what is missing and the options of `ctsm prepare` that add it.
        """
        missing = [NEEDS[need] for need in NEEDS if need in needs and need not in self.manifest.get(EXTRAS, {})]
        if missing:
            titles, options = " and ".join(need.title for need in missing), " ".join(need.option for need in missing)
            raise CtsmError(
                f"{self.directory}: was prepared without {titles}, which the model needs; run `ctsm prepare` again "
                f"with {options}."
            )

    def extras_hashes(self, needs: Collection[str]) -> dict[str, str]:
        """Return the SHA-256 of each file of the given needs, by name: what `fingerprint` does not cover."""
        self.require(needs)
        return {
            name: digest
            for need in NEEDS
            if need in needs
            for name, digest in self.manifest[EXTRAS][need]["files"].items()
        }

    def examples(self, split: str, needs: Collection[str] = ()) -> Examples:
        """Load one split's arrays, with the extras that `needs` name and the split can have.

        Raises:
            CtsmError: a file is damaged, or the dataset was prepared without a need.
        """
        arrays = _load(self.directory / f"{split}.safetensors")
        ragged = {name: Ragged(arrays[name], arrays[f"{name}_offsets"]) for name in RAGGED}
        extras: dict[str, Ragged | Groups] = {}
        if needs:
            self.require(needs)
            for need in needs_of(split, needs):
                self._check_extra(need, split_file(need, split))
                extras |= load_extras(self.directory / EXTRAS, need, split)
        return Examples(conversation=arrays["conversation"], emotion=arrays["emotion"], **ragged, extras=extras)

    def _check_extra(self, need: str, name: str) -> None:
        """Refuse a file of extras that is not the one the manifest knows."""
        path = self.directory / EXTRAS / name
        _require(path)
        if sha256_of(path) != self.manifest[EXTRAS][need]["files"].get(name):
            raise CtsmError(f"{path}: differs from the manifest's SHA-256; run `ctsm prepare` again.")

    def texts(self, split: str) -> list[ExampleText]:
        """Load the texts of one split, in the order of its examples."""
        path = self.directory / f"{split}.jsonl"
        try:
            with path.open(encoding="utf-8") as stream:
                texts = [_text(json.loads(line)) for line in stream]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CtsmError(f"{path}: cannot read the texts ({error}); run `ctsm prepare` again.") from error
        expected = len(_load(self.directory / f"{split}.safetensors")["emotion"])
        if len(texts) != expected:
            raise CtsmError(f"{path}: {len(texts)} texts for {expected} examples; run `ctsm prepare` again.")
        return texts


def fingerprint(directory: Path) -> str:
    """Return one SHA-256 over the files that training reads."""
    digest = hashlib.sha256()
    for name in HASHED_FILES:
        path = directory / name
        _require(path)
        digest.update(f"{name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def is_prepared(directory: Path) -> bool:
    """Tell whether a folder holds a prepared dataset, of any version and state, and nothing else."""
    names = {item.name for item in directory.iterdir()} if directory.is_dir() else set()
    return {MANIFEST, VOCABULARY} <= names <= NAMES


def save_examples(directory: Path, split: str, examples: Examples, texts: Sequence[ExampleText]) -> None:
    """Write one split's arrays and texts."""
    arrays: dict[str, Any] = {
        "conversation": examples.conversation.astype(np.int32),
        "emotion": examples.emotion.astype(np.int32),
    }
    for name in RAGGED:
        rows: Ragged = getattr(examples, name)
        arrays[name] = rows.values.astype(np.int32)
        arrays[f"{name}_offsets"] = rows.offsets.astype(np.int64)
    (directory / f"{split}.safetensors").write_bytes(save(arrays))
    with (directory / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
        for text in texts:
            stream.write(json.dumps(vars(text), ensure_ascii=False) + "\n")


def _require(path: Path) -> None:
    if not path.is_file():
        raise CtsmError(f"{path}: missing from the prepared dataset; run `ctsm prepare` again.")


def _text(record: dict[str, Any]) -> ExampleText:
    return ExampleText(
        id=record["id"],
        conversation_id=record["conversation_id"],
        context=tuple(record["context"]),
        reference=record["reference"],
        reference_tokens=tuple(record["reference_tokens"]),
        oov=tuple(record["oov"]),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        arrays: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CtsmError(f"{path}: cannot read the arrays ({error}); run `ctsm prepare` again.") from error
    return arrays
