"""What the admin sees while a study is open: progress and agreement, and nothing from which a winner could be read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ctsm.judging.store import Store
from ctsm.judging.study import VERDICTS, Judgement


def overview(store: Store) -> dict[str, Any]:
    """Return what the admin's page shows, as JSON."""
    study, judgements = store.study(), store.judgements()
    return {
        "closed": store.closed,
        "items": len(study.items),
        "pairs": len(study.pairs),
        "annotators": [asdict(progress) for progress in store.progress()],
        "agreement": [_agreement(judgements, aspect, len(study.annotators)) for aspect in study.aspects],
    }


def _agreement(judgements: Iterable[Judgement], aspect: str, annotators: int) -> dict[str, Any]:
    """Return the agreement in one aspect over the comparisons of all pairs, without catch trials."""
    import numpy as np

    from ctsm.judging.agreement import agreement

    verdicts = defaultdict[tuple[str, str], Counter[str]](Counter)
    for one in judgements:
        if one.aspect == aspect and not one.catch:
            verdicts[one.pair, one.item][one.verdict] += 1
    counts = [[own[verdict] for verdict in VERDICTS] for own in verdicts.values()]
    found = agreement(np.array(counts, dtype=np.int64).reshape(-1, len(VERDICTS)), annotators)
    return {
        "aspect": aspect,
        "complete": found.items,
        "raw": found.raw,
        "kappa": found.kappa,
        "reading": found.reading,
        "undefined": found.undefined,
    }
