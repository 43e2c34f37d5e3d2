"""`ctsm prepare`: raw dialogues, lexicons, vectors and inferences become one directory that training needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save

from ctsm.corpus.batches import Examples, Ragged
from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.encoding import encode_context, encode_inferences, encode_reply
from ctsm.corpus.prepared import (
    FORMAT,
    INFERENCES,
    MANIFEST,
    SPLITS,
    VOCABULARY,
    WORDS,
    ExampleText,
    fingerprint,
    is_prepared,
    save_examples,
)
from ctsm.corpus.reader import Conversation, listener_turns, read_dialogues
from ctsm.corpus.sample import SAMPLE_TERMS, is_sample, sample_path
from ctsm.errors import CtsmError
from ctsm.files import atomic_directory, sha256_of, write_json
from ctsm.knowledge.idf import inverse_document_frequency
from ctsm.knowledge.inference import Inferences, InferenceSource, infer_with_cache, open_source
from ctsm.knowledge.vad import read_vad
from ctsm.knowledge.vectors import random_vectors, read_vectors
from ctsm.text.tokenise import tokenise
from ctsm.text.vocabulary import SPECIALS, UNK, Vocabulary
from ctsm.version import __version__

VECTOR_SIZE = 300
TERMS = {
    "dialogues": "EmpatheticDialogues: CC BY-NC 4.0",
    "vad": "NRC-VAD: free for research, not to be redistributed",
    "vectors": "as their publisher says (GloVe: PDDL)",
    "atomic": "ATOMIC: CC BY 4.0",
    "comet": "COMET-ATOMIC-2020: code Apache-2.0, data CC BY 4.0",
    "file": "those of the source the file was made with",
}
OWN_TERMS = "those of the dialogues' owner"
RESTRICTED = frozenset({"vad"})

Tokens = list[str]
Report = Callable[[str], None]


@dataclass(frozen=True)
class PrepareOptions:
    """Inputs of `prepare`.

    Attributes:
        dialogues: official archive, folder of CSVs, or JSONL; "sample" is the corpus that comes with the package.
        vad: VAD lexicon (NRC-VAD v1 layout), "sample", or None for none.
        vectors: word vectors in GloVe's text format, or None for random ones.
        vector_size: width of the vectors; None takes the file's, or 300 without a file.
        inferences: `comet[:DIR]`, `atomic:FILE` (or `atomic:sample`), `file:FILE` or `none`.
        inferences_cache: file that keeps the inferences as they are made, so that an interrupted run goes on.
        vocabulary: words of all splits and fields (the papers' set-up), or of the training dialogues only.
        seed: of the vectors of words that have none.
    """

    dialogues: str
    vad: str | None = None
    vectors: Path | None = None
    vector_size: int | None = None
    inferences: str = "none"
    inferences_cache: Path | None = None
    vocabulary: Literal["all", "train"] = "all"
    seed: int = 42


@dataclass(frozen=True)
class _Tokenised:
    """One split: conversations with the tokens of their situation and of each turn that some example uses.

    A last turn by the speaker has no reply, so it is in no context and no target, as in the lineage's pipeline.
    """

    conversations: list[Conversation]
    turns: list[list[Tokens]]
    situations: list[Tokens]


def prepare(options: PrepareOptions, out: Path, report: Report = lambda _message: None) -> dict[str, Any]:
    """Write a prepared directory and return its manifest; an existing one at `out` is replaced as a whole.

    Raises:
        CtsmError: an input is missing or broken, or `out` holds something that is not a prepared dataset.
    """
    _check(options, out)
    source = open_source(_resolve_inferences(options.inferences))
    dialogues_path = _resolve(options.dialogues, "dialogues")
    report(f"reading {options.dialogues}")
    dialogues = read_dialogues(dialogues_path)
    if not any(listener_turns(dialogues["train"])):
        raise CtsmError(f"{dialogues_path}: holds no training conversation with a reply; add some with split train.")
    report("tokenising")
    splits = {split: _tokenise(dialogues[split]) for split in SPLITS}
    vocabulary = build_vocabulary(splits, options.vocabulary)
    report(f"vocabulary of {len(vocabulary):,} words")
    tables, table_facts = _word_tables(options, splits["train"], vocabulary, report)
    with atomic_directory(out) as folder:
        vocabulary.save(folder / VOCABULARY)
        (folder / WORDS).write_bytes(save(tables))
        inferences = _infer(source, options.inferences_cache, dialogues, report)
        counts = {split: _write_split(folder, split, splits[split], vocabulary, inferences) for split in SPLITS}
        (folder / INFERENCES).mkdir()
        source.save(folder / INFERENCES)
        manifest = {
            "format": FORMAT,
            "ctsm_version": __version__,
            "fingerprint": fingerprint(folder),
            "vocabulary": {"size": len(vocabulary), "words_of": options.vocabulary},
            "counts": counts,
            "seed": options.seed,
            **table_facts,
            "inferences": source.describe(),
            "resources": _resources(options, dialogues_path, source),
        }
        write_json(folder / MANIFEST, manifest)
    return manifest


def _check(options: PrepareOptions, out: Path) -> None:
    """Refuse what would destroy other files or cannot be built, before anything is read."""
    if out.exists() and not is_prepared(out) and (out.is_file() or any(out.iterdir())):
        raise CtsmError(
            f"{out}: exists and is not a prepared dataset and nothing else; choose another --out or remove it."
        )
    cache_file = options.inferences_cache
    if cache_file is not None and out.resolve() in cache_file.resolve().parents:
        raise CtsmError(f"{cache_file}: lies inside --out, which is replaced as a whole; keep the cache elsewhere.")
    if options.vector_size is not None and options.vector_size < 1:
        raise CtsmError(f"--vector-size is {options.vector_size}; it must be at least 1.")
    if options.seed < 0:
        raise CtsmError(f"--seed is {options.seed}; it must not be negative.")


def build_vocabulary(splits: dict[str, _Tokenised], words_of: Literal["all", "train"]) -> Vocabulary:
    """Collect the words of all splits and fields, or of the training dialogues alone; the 32 labels always."""
    token_lists: list[Tokens] = []
    for split in SPLITS if words_of == "all" else ("train",):
        turns = [turn for conversation in splits[split].turns for turn in conversation]
        token_lists.extend(turns)
        if words_of == "all":
            token_lists.extend(splits[split].situations)
    return Vocabulary.build(token_lists, always=EMOTIONS)


def _tokenise(conversations: list[Conversation]) -> _Tokenised:
    return _Tokenised(
        conversations,
        [
            [tokenise(turn) for turn in conversation.turns[: len(conversation.turns) // 2 * 2]]
            for conversation in conversations
        ],
        [tokenise(conversation.situation) for conversation in conversations],
    )


def _word_tables(
    options: PrepareOptions, train: _Tokenised, vocabulary: Vocabulary, report: Report
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the per-word tables and what the manifest says of them."""
    words = vocabulary.words
    documents = (vocabulary.ids(turn) for conversation in train.turns for turn in conversation)
    idf = inverse_document_frequency(documents, len(vocabulary), len(SPECIALS))
    idf[UNK] = 1.0  # a word the vocabulary lacks is as rare as words get
    tables: dict[str, Any] = {"idf": idf, "labels": np.asarray(vocabulary.ids(EMOTIONS), dtype=np.int64)}
    facts: dict[str, Any] = {"vad": None, "vectors": None}
    if options.vad is None:
        tables["vad"] = np.zeros((len(words), 3), dtype=np.float32)
        tables["in_lexicon"] = np.zeros(len(words), dtype=np.bool_)
        tables["intensity"] = np.zeros(len(words), dtype=np.float32)
    else:
        report(f"reading {options.vad}")
        lexicon = read_vad(_resolve(options.vad, "vad"))
        table = lexicon.table(words)
        tables |= {"vad": table.values, "in_lexicon": table.known, "intensity": table.intensity}
        low, high = lexicon.intensity_range
        facts["vad"] = {
            "entries": len(lexicon.values),
            "words_found": int(table.known.sum()),
            "intensity_min": low,
            "intensity_max": high,
        }
    if options.vectors is None:
        tables["vectors"] = random_vectors(len(words), options.vector_size or VECTOR_SIZE, options.seed)
        return tables, facts
    report(f"reading {options.vectors}")
    vectors = read_vectors(options.vectors, words, options.vector_size, options.seed)
    tables["vectors"] = vectors.values
    facts["vectors"] = {"words_found": int(vectors.found.sum()), "size": int(vectors.values.shape[1])}
    return tables, facts


def _infer(
    source: InferenceSource, cache_file: Path | None, dialogues: dict[str, list[Conversation]], report: Report
) -> dict[str, Inferences]:
    """Infer for the last context utterance of every example: utterance -> inferences."""
    utterances = list(dict.fromkeys(turn.context[-1] for split in SPLITS for turn in listener_turns(dialogues[split])))
    report(f"inferring for {len(utterances):,} utterances with {source.name}")
    return dict(zip(utterances, infer_with_cache(source, utterances, cache_file), strict=True))


def _write_split(
    folder: Path, split: str, data: _Tokenised, vocabulary: Vocabulary, inferences: dict[str, Inferences]
) -> dict[str, int]:
    """Encode and write one split; returns its counts."""
    columns: dict[str, list[Any]] = {name: [] for name in ("conversation", "emotion", "context", "speakers", "target")}
    cognitive, reaction, texts = list[list[int]](), list[list[int]](), list[ExampleText]()
    tokenise_phrase = cache(tokenise)
    for number, (conversation, turns) in enumerate(zip(data.conversations, data.turns, strict=True)):
        for reply in range(1, len(turns), 2):
            context = encode_context(vocabulary, turns[:reply])
            columns["conversation"].append(number)
            columns["emotion"].append(conversation.emotion)
            columns["context"].append(context.ids)
            columns["speakers"].append(context.speakers)
            columns["target"].append(encode_reply(vocabulary, turns[reply], context.oov))
            rows, reactions = encode_inferences(vocabulary, inferences[conversation.turns[reply - 1]], tokenise_phrase)
            cognitive.extend(rows)
            reaction.append(reactions)
            texts.append(_example_text(conversation, turns, reply, context.oov))
    ragged = {name: Ragged.from_rows(columns[name]) for name in ("context", "speakers", "target")}
    examples = Examples(
        conversation=np.asarray(columns["conversation"], dtype=np.int32),
        emotion=np.asarray(columns["emotion"], dtype=np.int32),
        cognitive=Ragged.from_rows(cognitive),
        reaction=Ragged.from_rows(reaction),
        **ragged,
    )
    save_examples(folder, split, examples, texts)
    utterances = sum(len(conversation.turns) for conversation in data.conversations)
    return {"conversations": len(data.conversations), "utterances": utterances, "examples": len(examples)}


def _example_text(conversation: Conversation, turns: Sequence[Tokens], reply: int, oov: Iterable[str]) -> ExampleText:
    return ExampleText(
        id=f"{conversation.id}#{reply}",
        conversation_id=conversation.id,
        context=conversation.turns[:reply],
        reference=conversation.turns[reply],
        reference_tokens=tuple(turns[reply]),
        oov=tuple(oov),
    )


def _resolve(value: str, role: str) -> Path:
    """Return the path of an input; "sample" names the file that comes with the package."""
    return sample_path(role) if value == "sample" else Path(value)


def _resolve_inferences(spec: str) -> str:
    return f"atomic:{sample_path('events')}" if spec == "atomic:sample" else spec


def _resources(options: PrepareOptions, dialogues: Path, source: InferenceSource) -> list[dict[str, Any]]:
    """Name every input with its hash and terms; `restricted` ones keep a model directory from being published."""
    entries = [_resource("dialogues", dialogues)]
    if options.vad is not None:
        entries.append(_resource("vad", _resolve(options.vad, "vad")))
    if options.vectors is not None:
        entries.append(_resource("vectors", options.vectors))
    if source.name != "none":
        location = _resolve_inferences(options.inferences).partition(":")[2]
        entries.append(_resource(source.name, Path(location)))
    return entries


def _resource(role: str, path: Path) -> dict[str, Any]:
    sample = is_sample(path)
    terms = SAMPLE_TERMS if sample else TERMS[role]
    if role == "dialogues" and not sample and (path.suffix == ".jsonl" or any(path.glob("*.jsonl"))):
        terms = OWN_TERMS  # only the official layout is known to be EmpatheticDialogues
    return {
        "role": role,
        "file": path.name or role,  # comet has a place of its own
        "sha256": sha256_of(path) if path.is_file() else None,
        "terms": terms,
        "restricted": role in RESTRICTED and not sample,
    }
