"""Text to word tokens as `nltk.word_tokenize` makes them, without any downloaded data.

Sentences are split first (Punkt with an abbreviation list of our own), then each is tokenised by the Treebank rules:
only a period at the end of a sentence becomes a token of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from ctsm.text.normalise import normalise

# Words whose period does not end a sentence, without that period. English words that also occur as abbreviations
# ("ill", "sat", "sun", "wed", "mar", "no", "in", "fig", "col") are left out: in talk they nearly always are words.
_ABBREVIATIONS_BY_KIND: Final = """
titles      mr mrs ms dr prof st jr sr rev gen lt sgt capt gov sen rep hon maj messrs
short_forms vs etc e.g i.e approx dept apt ave blvd
times       a.m p.m b.c a.d jan feb aug sept oct nov tues thurs
places      u.s u.s.a u.k u.n e.u d.c l.a n.y n.y.c n.c s.c n.j
degrees     ph.d m.d b.a m.a b.s m.b.a
companies   inc ltd corp bros
measures    ft lbs hrs mins
letters     t.v r.i.p o.k p.s v.i.p d.j a.k.a c.e.o
"""

ABBREVIATIONS: Final[frozenset[str]] = frozenset(
    word for line in _ABBREVIATIONS_BY_KIND.splitlines() for word in line.split()[1:]
)

# Most inferred phrases are words with spaces between them, which need no rules but for six words that NLTK divides.
_PLAIN: Final = re.compile("[a-z]+(?: [a-z]+)*")
_SPLIT_WORDS: Final = frozenset(["cannot", "gimme", "gonna", "gotta", "lemme", "wanna"])


def tokenise(text: str) -> list[str]:
    """Return the lower-case word tokens of `text`; an empty list when nothing visible is in it.

    Double quotes become the Treebank's `` and ''. No token is empty or contains white space.
    """
    text = normalise(text)
    if _PLAIN.fullmatch(text) and _SPLIT_WORDS.isdisjoint(words := text.split(" ")):
        return words
    split, words_of = _nltk_tokenisers()
    return [token for sentence in split(text) for token in words_of(sentence)]


def sentences(text: str) -> list[str]:
    """Return the sentences of `text`, normalised, as `tokenise` splits it."""
    return _nltk_tokenisers()[0](normalise(text))


@cache
def _nltk_tokenisers() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    """Return the sentence splitter and the word tokeniser, made once.

    Imported here because `import nltk` takes about a second: it loads scipy, whichever of its modules is asked for.
    """
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters: Any = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters).tokenize, NLTKWordTokenizer().tokenize
