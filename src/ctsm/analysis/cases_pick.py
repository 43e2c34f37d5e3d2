"""Which contexts `ctsm cases` shows: by id, by emotion, by disagreement between systems, or drawn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsm.errors import CtsmError
from ctsm.serving.generate import ContextItem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """What to show.

    Attributes:
        emotion: only contexts with this label; "" for any.
        disagreement: the contexts on which the systems disagree most, one of each conversation.
        ids: just these contexts, in this order.
        count: how many at most; None for all.
        seed: decides which are drawn where nothing else does.
    """

    emotion: str = ""
    disagreement: bool = False
    ids: tuple[str, ...] = ()
    count: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            CtsmError: ids together with another choice, one id twice, or a count below 1.
        """
        if self.ids and (self.emotion or self.disagreement or self.count is not None):
            raise CtsmError("--id names the contexts itself; leave out --emotion, --disagreement and --count.")
        if len(set(self.ids)) < len(self.ids):
            raise CtsmError("--id names a context twice; give each id once.")
        if self.count is not None and self.count < 1:
            raise CtsmError(f"--count is {self.count}; it must be at least 1.")


def pick(
    items: Sequence[ContextItem],
    choice: Choice,
    emotions_of: Callable[[Sequence[int]], Sequence[Floats]],
    place: str,
) -> list[int]:
    """Return the rows of the chosen contexts: those named, the most disputed first, or drawn and in their own order.

    Args:
        items: all contexts.
        choice: what to show.
        emotions_of: for some rows the emotion probabilities [rows, E] by each system that predicts emotions; asked only
            for the sake of disagreement.
        place: where the contexts come from, for messages.

    Raises:
        CtsmError: an id or label that no context has, or no context on which systems disagree.
    """
    if choice.ids:
        return _named(items, choice.ids, place)
    wanted = choice.emotion.lower()
    rows = [row for row, item in enumerate(items) if wanted in ("", (item.emotion or "").lower())]
    if not rows:
        labels = ", ".join(sorted({item.emotion for item in items if item.emotion})) or "none at all"
        raise CtsmError(f"{place}: no context has the label {choice.emotion!r}; the labels there: {labels}.")
    if choice.disagreement:
        return _disputed(items, rows, emotions_of(rows), place)[: choice.count]
    if choice.count is None or choice.count >= len(rows):
        return rows
    drawn = list(rows)
    random.Random(choice.seed).shuffle(drawn)
    return sorted(drawn[: choice.count])


def disagreement(probabilities: Sequence[Floats]) -> tuple[NDArray[np.bool_], Floats]:
    """Return for each context whether the systems' most probable emotions differ, and how far apart the systems are.

    Two systems are as far apart as the share of probability that they give to different emotions (the total variation
    distance, 0 to 1); more systems, as the mean over their pairs.

    Args:
        probabilities: [N, E] of each system, at least two.
    """
    first = np.stack([one.argmax(axis=1) for one in probabilities])
    pairs = [np.abs(one - other).sum(axis=1) / 2 for one, other in itertools.combinations(probabilities, 2)]
    distance: Floats = np.mean(pairs, axis=0)
    return np.any(first != first[0], axis=0), distance


def _named(items: Sequence[ContextItem], ids: Sequence[str], place: str) -> list[int]:
    rows = {item.id: row for row, item in enumerate(items)}
    unknown = [name for name in ids if name not in rows]
    if unknown:
        raise CtsmError(f"{place}: has no context with the id {unknown[0]!r}; an id is like {items[0].id!r}.")
    return [rows[name] for name in ids]


def _disputed(
    items: Sequence[ContextItem], rows: Sequence[int], probabilities: Sequence[Floats], place: str
) -> list[int]:
    """Return the rows on which the systems disagree, the farthest apart first, equally far ones by id.

    Of each conversation only the first: its turns are alike, and would fill the table together.
    """
    differ, distance = disagreement(probabilities)
    # Rounded, so that the order does not hang on the last bits of a sum.
    keys = [(-round(float(distance[at]), 6), items[row].id, row) for at, row in enumerate(rows) if differ[at]]
    if not keys:
        raise CtsmError(f"{place}: the runs perceive the same emotion in all {len(rows)} contexts; choose otherwise.")
    worst: dict[str, int] = {}
    for *_, row in sorted(keys):
        worst.setdefault(items[row].conversation_id, row)
    return list(worst.values())
