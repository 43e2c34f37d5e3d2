"""Adjectives, found by nltk's part-of-speech tagger where its data is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from ctsm.errors import CtsmError
from ctsm.knowledge.function_words import FUNCTION_WORDS

TAGGER_DATA: Final = "averaged_perceptron_tagger_eng"


def adjectives_of(texts: Iterable[Sequence[str]]) -> frozenset[str]:
    """Return the words that are tagged as adjectives in more than half of their occurrences.

    The published systems tag every occurrence anew. Deciding once for each word gives a list that travels with a model,
    so that replying needs no tagger and reads a word as training did. Function words and what is not a word are left
    out.

    Args:
        texts: the tokens of each text.

    Raises:
        CtsmError: the tagger's data is not installed.
    """
    from nltk.tag.perceptron import PerceptronTagger

    try:
        tagger = PerceptronTagger()
    except LookupError:
        raise CtsmError(
            f"--adjectives needs nltk's tagger data, which is not installed; run `python -m nltk.downloader "
            f"{TAGGER_DATA}` or leave --adjectives out."
        ) from None
    seen, adjectives = Counter[str](), Counter[str]()
    for tokens in texts:
        seen.update(tokens)
        adjectives.update(word for word, tag in tagger.tag(list(tokens)) if tag.startswith("JJ"))
    return frozenset(
        word
        for word, count in adjectives.items()
        if 2 * count > seen[word] and word.isalpha() and word not in FUNCTION_WORDS
    )
