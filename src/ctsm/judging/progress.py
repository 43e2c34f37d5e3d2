"""What the admin sees while a study is open: progress and agreement, and nothing from which a winner could be read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from math import comb
from typing import Any

from ctsm.judging.store import Store
from ctsm.judging.study import Judgement


def raw_agreement(judgements: Iterable[Judgement], aspect: str) -> tuple[int, int]:
    """Count in how many comparisons two annotators gave the same verdict, and how many comparisons there are.

    Every two annotators who judged the same reply pair in this aspect are one comparison. Catch trials do not count.
    """
    verdicts = defaultdict[tuple[str, str], Counter[str]](Counter)
    for one in judgements:
        if one.aspect == aspect and not one.catch:
            verdicts[one.pair, one.item][one.verdict] += 1
    same = sum(comb(count, 2) for counts in verdicts.values() for count in counts.values())
    return same, sum(comb(counts.total(), 2) for counts in verdicts.values())


def overview(store: Store) -> dict[str, Any]:
    """Return what the admin's page shows, as JSON."""
    study, judgements = store.study(), store.judgements()
    agreement = []
    for aspect in study.aspects:
        same, compared = raw_agreement(judgements, aspect)
        agreement.append({"aspect": aspect, "same": same, "compared": compared})
    return {
        "closed": store.closed,
        "items": len(study.items),
        "pairs": len(study.pairs),
        "annotators": [asdict(progress) for progress in store.progress()],
        "agreement": agreement,
    }
