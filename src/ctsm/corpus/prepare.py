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
from ctsm.corpus.encoding import CONCEPTS, encode_context, encode_inferences, encode_reply
from ctsm.corpus.extras import (
    EXTRAS,
    ExtrasBuilder,
    Later,
    WordKnowledge,
    needs_of,
    save_extras,
    split_file,
    sub_utterances,
    table_file,
)
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
from ctsm.knowledge.adjectives import adjectives_of
from ctsm.knowledge.conceptnet import related_words
from ctsm.knowledge.emolex import read_emolex
from ctsm.knowledge.function_words import FUNCTION_WORDS
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
    "emotion_words": "NRC EmoLex: free for research, not to be redistributed",
    "concepts": "ConceptNet: CC BY-SA 4.0",
}
OWN_TERMS = "those of the dialogues' owner"
RESTRICTED = frozenset({"vad", "emotion_words"})
LEAST_INTENSITY = 0.6
"""Emotional intensity that makes a related word a concept (KEMP)."""
CONCEPTS_PER_WORD = 1
"""Concepts of one word, the most intense ones (KEMP's published command)."""

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
        emotion_words: NRC EmoLex (word-level layout), "sample", or None for no emotion words.
        adjectives: whether adjectives, found by nltk's tagger, are emotion words too.
        concepts: ConceptNet's assertions, "sample", or None for no concepts.
        feedback: whether to keep the speaker's next turn of the training examples.
        cognition: whether to infer for each sentence of the last utterance too.
    """

    dialogues: str
    vad: str | None = None
    vectors: Path | None = None
    vector_size: int | None = None
    inferences: str = "none"
    inferences_cache: Path | None = None
    vocabulary: Literal["all", "train"] = "all"
    seed: int = 42
    emotion_words: str | None = None
    adjectives: bool = False
    concepts: str | None = None
    feedback: bool = False
    cognition: bool = False

    @property
    def needs(self) -> list[str]:
        """What is prepared beyond CTSM's data."""
        asked = {
            "emotion_words": self.emotion_words is not None,
            "concepts": self.concepts is not None,
            "feedback": self.feedback,
            "cognition": self.cognition,
        }
        return [need for need, wanted in asked.items() if wanted]


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
    knowledge, knowledge_facts = _word_knowledge(options, tables, splits["train"], vocabulary, report)
    with atomic_directory(out) as folder:
        vocabulary.save(folder / VOCABULARY)
        (folder / WORDS).write_bytes(save(tables))
        inferences = _infer(source, options, dialogues, report)
        counts = {split: _write_split(folder, split, splits[split], vocabulary, inferences) for split in SPLITS}
        if options.needs:
            report(f"collecting {', '.join(options.needs)}")
            (folder / EXTRAS).mkdir()
            knowledge.save(folder / EXTRAS)
            for split in SPLITS:
                _write_extras(folder, split, splits[split], vocabulary, inferences, knowledge, options.needs)
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
        if options.needs:
            manifest[EXTRAS] = _extras_facts(folder / EXTRAS, options, knowledge_facts)
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
    for option, wanted, other, given in (
        ("--adjectives", options.adjectives, "--emotion-words", options.emotion_words),
        ("--feedback", options.feedback, "--emotion-words", options.emotion_words),
        ("--concepts", options.concepts, "--vad", options.vad),
    ):
        if wanted and not given:
            raise CtsmError(f"{option} needs {other}; give both or leave {option} out.")
    if options.cognition and options.inferences == "none":
        raise CtsmError("--cognition needs inferences; give --inferences too or leave --cognition out.")


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


def _word_knowledge(
    options: PrepareOptions, tables: dict[str, Any], train: _Tokenised, vocabulary: Vocabulary, report: Report
) -> tuple[WordKnowledge, dict[str, dict[str, Any]]]:
    """Return emotion words and concepts of the vocabulary where asked for, and what the manifest says of them."""
    facts: dict[str, dict[str, Any]] = {}
    emotional = concepts = intensity = None
    if options.emotion_words is not None:
        report(f"reading {options.emotion_words}")
        lexicon = read_emolex(_resolve(options.emotion_words, "emotion_words"))
        adjectives = frozenset[str]()
        if options.adjectives:
            report("tagging adjectives")
            adjectives = adjectives_of(turn for conversation in train.turns for turn in conversation)
        emotional = np.array([word in lexicon or word in adjectives for word in vocabulary.words])
        facts["emotion_words"] = {
            "entries": len(lexicon),
            "adjectives": len(adjectives - lexicon) if options.adjectives else None,
            "words_found": int(emotional.sum()),
        }
    if options.concepts is not None:
        report(f"reading {options.concepts}")
        content = {word: row for row, word in enumerate(vocabulary.words) if word.isalpha() and word.islower()}
        content = {word: row for word, row in content.items() if word not in FUNCTION_WORDS}
        intense = {word: float(tables["intensity"][row]) for word, row in content.items() if tables["in_lexicon"][row]}
        intense = {word: value for word, value in intense.items() if value >= LEAST_INTENSITY}
        related = related_words(_resolve(options.concepts, "concepts"), intense, content)
        concepts = Ragged.from_rows(
            [vocabulary.ids(related.get(word, [])[:CONCEPTS_PER_WORD]) for word in vocabulary.words]
        )
        intensity = tables["intensity"][concepts.values]
        facts["concepts"] = {
            "words_with_concepts": len(related),
            "least_intensity": LEAST_INTENSITY,
            "per_word": CONCEPTS_PER_WORD,
            "per_example": CONCEPTS,
        }
    return WordKnowledge(emotional, concepts, intensity), facts


def _infer(
    source: InferenceSource, options: PrepareOptions, dialogues: dict[str, list[Conversation]], report: Report
) -> dict[str, Inferences]:
    """Infer for the last context utterance of every example, and for its sentences: text -> inferences."""
    texts = list(dict.fromkeys(turn.context[-1] for split in SPLITS for turn in listener_turns(dialogues[split])))
    if options.cognition:
        texts = list(dict.fromkeys([*texts, *(part for text in texts for part in sub_utterances(text))]))
    report(f"inferring for {len(texts):,} utterances with {source.name}")
    return dict(zip(texts, infer_with_cache(source, texts, options.inferences_cache), strict=True))


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
    examples = Examples(
        conversation=np.asarray(columns["conversation"], dtype=np.int32),
        emotion=np.asarray(columns["emotion"], dtype=np.int32),
        context=Ragged.from_rows(columns["context"]),
        speakers=Ragged.from_rows(columns["speakers"]),
        target=Ragged.from_rows(columns["target"]),
        cognitive=Ragged.from_rows(cognitive),
        reaction=Ragged.from_rows(reaction),
    )
    save_examples(folder, split, examples, texts)
    utterances = sum(len(conversation.turns) for conversation in data.conversations)
    return {"conversations": len(data.conversations), "utterances": utterances, "examples": len(examples)}


def _write_extras(
    folder: Path,
    split: str,
    data: _Tokenised,
    vocabulary: Vocabulary,
    inferences: dict[str, Inferences],
    knowledge: WordKnowledge,
    needs: Sequence[str],
) -> None:
    """Encode and write what some systems need of one split, in the order of its examples."""
    needs = needs_of(split, needs)
    builder = ExtrasBuilder(needs, vocabulary, knowledge)
    for conversation, turns in zip(data.conversations, data.turns, strict=True):
        for reply in range(1, len(turns), 2):
            following = conversation.turns[reply + 1 : reply + 2]
            builder.add(
                [word for turn in turns[:reply] for word in vocabulary.ids(turn)],
                conversation.turns[reply - 1],
                inferences.__getitem__,
                Later(
                    vocabulary.ids(turns[reply]),
                    [word for turn in following for word in vocabulary.ids(tokenise(turn))],
                ),
            )
    extras = builder.build()
    for need in needs:
        save_extras(folder / EXTRAS, need, split, extras)


def _extras_facts(folder: Path, options: PrepareOptions, facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the manifest's part on each need: facts, the inputs behind it, and the hash of each of its files."""
    described: dict[str, Any] = {}
    for need in options.needs:
        names = [table_file(need), *(split_file(need, split) for split in SPLITS)]
        inputs = {"emotion_words": options.emotion_words, "concepts": options.concepts}.get(need)
        described[need] = {
            **facts.get(need, {}),
            "resources": [] if inputs is None else [_resource(need, _resolve(inputs, need))],
            "files": {name: sha256_of(folder / name) for name in names if (folder / name).is_file()},
        }
    return described


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
