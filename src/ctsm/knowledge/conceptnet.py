"""ConceptNet: for each vocabulary word the related words of high emotional intensity (KEMP, "emotional context graph").

KEMP (Li et al., AAAI 2022) keeps assertions with both ends in English and a weight of at least 1, leaves out relations
that say little, takes a word's neighbours in both directions and ranks them by emotional intensity.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from ctsm.errors import CtsmError
from ctsm.knowledge.lines import byte_lines, place

PURPOSE = "the ConceptNet assertions"
LEAST_WEIGHT: Final = 1.0
DROPPED_RELATIONS: Final = frozenset(
    "Antonym ExternalURL NotDesires NotHasProperty NotCapableOf dbpedia DistinctFrom EtymologicallyDerivedFrom "
    "EtymologicallyRelatedTo SymbolOf FormOf AtLocation DerivedFrom CreatedBy Synonym MadeOf".split()
)
"""KEMP's list: opposites, word histories, word forms, places and names."""

_ENGLISH = b"/c/en/"
_HEAVIEST = 1e9


def read_assertions(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield (relation, start, end, weight) of every assertion whose both ends are English: ("CapableOf", "dog", ...).

    Terms are written as in ConceptNet, in lower case and with "_" between words; parts of speech and senses are left
    out. Assertions in other languages and links to other sites are skipped.

    Args:
        path: ConceptNet's assertions file: five tab-separated columns (URI, relation, start, end, JSON with a weight);
            plain or .gz.

    Raises:
        CtsmError: naming the line, for a wrong number of columns, a relation that is none, JSON without a weight, bytes
            that are not UTF-8; or the file is missing or damaged.
    """
    for number, line in byte_lines(path, PURPOSE):
        if not line.strip():
            continue
        columns = line.split(b"\t")
        if len(columns) != 5:
            raise CtsmError(
                f"{place(path, number)}: {len(columns)} tab-separated columns, expected 5 (URI, relation, start, end, "
                "JSON); give ConceptNet's assertions file."
            )
        if not columns[1].startswith(b"/r/"):
            raise CtsmError(
                f"{place(path, number)}: the second column is no relation (/r/...); give ConceptNet's assertions file."
            )
        if columns[2].startswith(_ENGLISH) and columns[3].startswith(_ENGLISH):
            yield _assertion(columns[1:], place(path, number))


def _assertion(columns: list[bytes], where: str) -> tuple[str, str, str, float]:
    """Decode relation, start, end and weight of one English assertion."""
    try:
        relation, start, end, facts = (column.decode("utf-8") for column in columns)
    except UnicodeDecodeError as error:
        raise CtsmError(f"{where}: not UTF-8 ({error.reason}); download {PURPOSE} again.") from None
    weight: object = None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        weight = json.loads(facts)["weight"]
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight <= _HEAVIEST:
        raise CtsmError(
            f"{where}: the last column is not JSON with a sensible number 'weight'; download {PURPOSE} again."
        )
    return relation.split("/")[2], start.split("/")[3], end.split("/")[3], float(weight)


def related_words(path: Path, intensity: Mapping[str, float], words: Collection[str]) -> dict[str, list[str]]:
    """Return for each word its concepts, the most intense first; words without any are left out.

    An assertion counts, in both directions, if it is English at both ends, weighs at least LEAST_WEIGHT and its
    relation is not among DROPPED_RELATIONS. Of equally intense concepts the one of the heavier assertion comes first,
    then the alphabet decides.

    Args:
        path: ConceptNet's assertions.
        intensity: concepts that may be related, with their emotional intensity.
        words: words that may have concepts.

    Raises:
        CtsmError: see `read_assertions`; or no assertion relates any of the words to a concept.
    """
    weights: dict[str, dict[str, float]] = {}
    for relation, start, end, weight in read_assertions(path):
        if weight < LEAST_WEIGHT or relation in DROPPED_RELATIONS or start == end:
            continue
        for word, concept in ((start, end), (end, start)):
            if concept in intensity and word in words:
                known = weights.setdefault(word, {})
                known[concept] = max(weight, known.get(concept, weight))
    if not weights:
        raise CtsmError(
            f"{path}: relates no word of the dialogues to an emotional one; give ConceptNet's assertions file and a "
            "VAD lexicon of the dialogues' language."
        )
    return {
        word: sorted(concepts, key=lambda concept: (-intensity[concept], -concepts[concept], concept))
        for word, concepts in weights.items()
    }
