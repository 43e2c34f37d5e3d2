"""What an A/B study consists of: pairs of systems, trials and what annotators answered.

In a trial one annotator compares two replies to one context, aspect by aspect. Answers are kept as verdicts on reply A
of the pair: `win`, `tie` or `lose`. Which reply stood on the left is part of the trial and of no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

STUDY_SCHEMA = 1
"""Version of a study and its database; a study of another version is refused."""

Side = Literal["a", "b"]
Verdict = Literal["win", "tie", "lose"]
VERDICTS: tuple[Verdict, ...] = ("win", "tie", "lose")
ASPECTS = {
    "empathy": "Which reply understands the speaker's feelings better and responds to them more fittingly?",
    "relevance": "Which reply fits better what was said?",
    "fluency": "Which reply reads better: natural, clear and free of mistakes?",
}
"""The aspects of section 4.3 with the question that annotators read."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two systems that are compared: a name for the table and the systems as their replies files name them."""

    name: str
    a: str
    b: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One annotator's comparison of two replies.

    Attributes:
        id: unique in the study; says nothing about the systems.
        annotator: "1", "2", ...
        place: position in the annotator's sequence, from 0.
        pair: name of the pair; empty for a catch trial.
        item: id of the context in the replies files.
        catch: whether this is a catch trial: reply A is the item's reference, reply B answers another context.
        left: the reply that stands on the left.
        context: the turns, the speaker first.
        reply_a: readable reply of system A.
        reply_b: readable reply of system B.
    """

    id: str
    annotator: str
    place: int
    pair: str
    item: str
    catch: bool
    left: Side
    context: tuple[str, ...]
    reply_a: str
    reply_b: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An annotator's verdict on reply A of one trial in one aspect."""

    trial: str
    annotator: str
    pair: str
    item: str
    catch: bool
    aspect: str
    verdict: Verdict
    judged: str  # UTC, ISO 8601


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as it was created; it does not change while people judge.

    Attributes:
        schema: `STUDY_SCHEMA`.
        created: UTC, ISO 8601.
        seed: of the sampling and of the sides.
        aspects: in the order they are asked.
        annotators: "1", "2", ...
        pairs: in the order of the table.
        items: ids of the sampled contexts, in the order of sampling; the same for every pair.
        guidelines: what annotators read first, as Markdown-free text with blank lines between paragraphs.
        trials: of all annotators.
    """

    schema: int
    created: str
    seed: int
    aspects: tuple[str, ...]
    annotators: tuple[str, ...]
    pairs: tuple[Pair, ...]
    items: tuple[str, ...]
    guidelines: str
    trials: tuple[Trial, ...]
