"""One word in two contexts (Figure 1 of the paper): what of its emotion changes and what does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctsm.analysis.explain import Explanation
from ctsm.errors import CtsmError
from ctsm.serving.responder import TokenEmotions


@dataclass(frozen=True)
class WordChange:
    """How much a word's emotion differs between two contexts; where it occurs twice, its first place counts.

    Attributes:
        token: the word.
        in_lexicon: whether it has a trait, which is the same in every context.
        first: the word in the first context.
        second: the word in the second context.
        standardised: its standardised inclination in both, 2 x 32 numbers.
        state_distance: total variation distance between the two states, 0 to 1: the probability that has to move.
        inclination_mean: mean absolute difference of the 32 cosines.
        inclination_max: the largest of them.
    """

    token: str
    in_lexicon: bool
    first: TokenEmotions
    second: TokenEmotions
    standardised: tuple[tuple[float, ...], tuple[float, ...]]
    state_distance: float
    inclination_mean: float
    inclination_max: float


def compare_words(first: Explanation, second: Explanation) -> list[WordChange]:
    """Return how the words that both contexts hold differ, the word whose state changes most first."""
    places = [_first_places(explanation) for explanation in (first, second)]
    changes = []
    for token, place in places[0].items():
        if token in places[1]:
            a, b = first.words[place], second.words[places[1][token]]
            difference = np.abs(np.subtract(a.inclination, b.inclination))
            changes.append(
                WordChange(
                    token=token,
                    in_lexicon=a.in_lexicon,
                    first=a,
                    second=b,
                    standardised=(first.standardised[place], second.standardised[places[1][token]]),
                    state_distance=float(np.abs(np.subtract(a.state, b.state)).sum() / 2),
                    inclination_mean=float(difference.mean()),
                    inclination_max=float(difference.max()),
                )
            )
    return sorted(changes, key=lambda change: (-change.state_distance, change.token))


def change_of(changes: list[WordChange], word: str | None) -> WordChange:
    """Choose a word: the one asked for, or the word of the lexicon (else any) whose state changes most.

    Raises:
        CtsmError: the two contexts have no word in common, or not this one.
    """
    if not changes:
        raise CtsmError("the two contexts have no word in common; give a context with one of the words of the other.")
    if word is None:
        return next((change for change in changes if change.in_lexicon), changes[0])
    found = next((change for change in changes if change.token == word.lower()), None)
    if found is None:
        common = ", ".join(change.token for change in changes)
        raise CtsmError(f"{word!r} is not in both contexts as the model reads them; choose one of: {common}.")
    return found


def _first_places(explanation: Explanation) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, word in enumerate(explanation.words):
        places.setdefault(word.token, place)
    return places
