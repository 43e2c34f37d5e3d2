"""`ctsm cases`: the paper's Table 4 for any runs: on the same contexts, what a person and what each system said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctsm.analysis.cases_pick import Choice, Floats, pick
from ctsm.corpus.batches import sorted_batches
from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.prepared import PreparedData
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.models.bundle import load_bundle, resolve_directory
from ctsm.serving.generate import BATCH, ContextItem, read_contexts
from ctsm.serving.responder import Responder

SHOWN = 5
"""Contexts of a data set that are shown where no number is given."""
TOP = 3
"""Perceived emotions that are shown."""
ONE_WORD = DecodingOptions(max_tokens=1)
"""Emotions are perceived before the first word, so one is enough where only they count."""


@dataclass(frozen=True)
class Answer:
    """One system's reply to a context, and the emotions it perceives as most probable (none without a head)."""

    system: str
    reply: str
    emotions: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Case:
    """A context with what people and systems said; `reference` and `emotion` are None where there is none."""

    id: str
    context: tuple[str, ...]
    reference: str | None
    emotion: str | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Contexts:
    """Where contexts come from: a split of prepared data, or a file.

    Attributes:
        place: of the contexts, for messages and titles.
        items: all of them.
        data: the prepared data, None for a file.
        split: of the data.
    """

    place: str
    items: list[ContextItem]
    data: PreparedData | None = None
    split: str = ""

    @classmethod
    def of_data(cls, directory: Path, split: str) -> Contexts:
        """Take a split of what `ctsm prepare` wrote.

        Raises:
            CtsmError: the data cannot be read, or the split is empty.
        """
        data = PreparedData(directory)
        texts, labels = data.texts(split), data.examples(split).emotion
        if not texts:
            raise CtsmError(f"{directory}: its {split} split is empty; choose another split.")
        items = [
            ContextItem(text.id, text.conversation_id, text.context, text.reference, EMOTIONS[label])
            for text, label in zip(texts, labels, strict=True)
        ]
        return cls(f"{directory} ({split})", items, data, split)

    @classmethod
    def of_file(cls, path: Path) -> Contexts:
        """Read contexts as `ctsm generate` does.

        Raises:
            CtsmError: as `read_contexts`.
        """
        return cls(str(path), read_contexts(path))


def make_cases(
    runs: Sequence[Path],
    contexts: Contexts,
    choice: Choice,
    device: str = "cpu",
    report: Callable[[str], None] = lambda _message: None,
) -> list[Case]:
    """Choose contexts and let every run reply to them greedily.

    Each run reads the text with its own vocabulary and inferences, so runs on different data can stand side by side.
    Only the chosen contexts are replied to. Disagreement first takes a pass of every encoder over all contexts
    (with the label), which is a part of what `ctsm evaluate` does.

    Args:
        runs: run or model directories, each once.
        contexts: to choose from.
        choice: what to show.
        device: where to compute.
        report: called with progress messages.

    Raises:
        CtsmError: a run cannot be loaded or is given twice, or as `pick`; disagreement with fewer than two runs that
            perceive emotions.
    """
    systems = _load(runs, device)

    def emotions_of(rows: Sequence[int]) -> list[Floats]:
        return _perceived(systems, contexts, rows, report)

    rows = pick(contexts.items, choice, emotions_of, contexts.place)
    chosen = [contexts.items[row] for row in rows]
    answers: list[list[Answer]] = [[] for _ in chosen]
    for name, responder in systems.items():
        report(f"{name}: replying to {len(chosen):,} contexts")
        for start in range(0, len(chosen), BATCH):
            responses = responder.respond_batch([item.context for item in chosen[start : start + BATCH]])
            for place, response in enumerate(responses, start=start):
                answers[place].append(Answer(name, response.text, tuple(response.top_emotions(TOP))))
    return [
        Case(item.id, item.context, item.reference, item.emotion, tuple(own))
        for item, own in zip(chosen, answers, strict=True)
    ]


def system_names(systems: Sequence[tuple[Path, str, str, int]]) -> list[str]:
    """Return a name for each system: its model, and where that is not enough, what tells it from the others.

    Args:
        systems: (directory, model, variant, seed) of each; the directories differ.
    """
    names = [model for _, model, _, _ in systems]
    folders = [place.parent if place.name == "best" else place for place, *_ in systems]
    differences = (
        [variant and f" {variant}" for _, _, variant, _ in systems],
        [f", seed {seed}" for *_, seed in systems],
        [f", {folder.name}" for folder in folders],
        [f" ({place})" for place, *_ in systems],
    )
    for parts in differences:
        alike: defaultdict[str, set[str]] = defaultdict(set)
        for name, part in zip(names, parts, strict=True):
            alike[name].add(part)
        names = [name + part * (len(alike[name]) > 1) for name, part in zip(names, parts, strict=True)]
    return names


def _load(runs: Sequence[Path], device: str) -> dict[str, Responder]:
    """Load every run, by its name."""
    places = [resolve_directory(run).resolve() for run in runs]
    for number, run in enumerate(runs):
        if places[number] in places[:number]:
            raise CtsmError(f"{run}: is given twice, as a run or its model; give each once.")
    bundles = [load_bundle(run, device) for run in runs]
    facts = [
        (place, bundle.config.model, bundle.config.variant, bundle.config.training.seed)
        for place, bundle in zip(places, bundles, strict=True)
    ]
    # What a system says is shown as it is: the care notice is for those who talk to it.
    responders = [Responder(bundle, care=False) for bundle in bundles]
    return dict(zip(system_names(facts), responders, strict=True))


def _perceived(
    systems: dict[str, Responder], contexts: Contexts, rows: Sequence[int], report: Callable[[str], None]
) -> list[Floats]:
    """Return the emotion probabilities of the contexts [rows, E] by each system that perceives emotions."""
    sample = contexts.items[rows[0]].context
    perceiving = {name: one for name, one in systems.items() if one.respond(sample, ONE_WORD).emotion is not None}
    if len(perceiving) < 2:
        raise CtsmError("--disagreement compares perceived emotions; give at least two runs that perceive emotions.")
    found = []
    for name, responder in perceiving.items():
        report(f"{name}: reading the emotions of {len(rows):,} contexts")
        data = contexts.data
        if data is not None and data.fingerprint == responder.bundle.data.fingerprint:
            found.append(_perceived_in_data(responder, data, contexts.split, np.array(rows)))
        else:
            found.append(_perceived_in_texts(responder, [contexts.items[row].context for row in rows]))
    return found


@torch.inference_mode()
def _perceived_in_data(
    responder: Responder, data: PreparedData, split: str, rows: np.typing.NDArray[np.int64]
) -> Floats:
    """Read the emotions of prepared examples [rows, E]: their inferences need not be made again."""
    model = responder.bundle.model
    examples, device = data.examples(split, model.needs), next(model.parameters()).device
    probabilities = np.zeros((len(rows), len(EMOTIONS)))
    for places in sorted_batches(examples.context.lengths[rows], BATCH):
        logits = model.encode(examples.batch(rows[places]).to(device)).emotion_logits
        assert logits is not None
        probabilities[places] = torch.softmax(logits.float(), dim=-1).cpu().numpy()
    return probabilities


def _perceived_in_texts(responder: Responder, contexts: Sequence[Sequence[str]]) -> Floats:
    """Read the emotions of texts [contexts, E]."""
    probabilities = np.zeros((len(contexts), len(EMOTIONS)))
    for places in sorted_batches(np.array([sum(map(len, turns)) for turns in contexts]), BATCH):
        responses = responder.respond_batch([contexts[place] for place in places], ONE_WORD)
        probabilities[places] = [[response.probabilities[name] for name in EMOTIONS] for response in responses]
    return probabilities
