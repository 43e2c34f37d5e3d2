"""Measure how much each emotion map of one word changes with its context (the table in docs/models/ctsm.md).

Usage: python scripts/measure_maps.py RUN DATA [EXAMPLES]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from ctsm.corpus.prepared import PreparedData
from ctsm.models.bundle import load_bundle
from ctsm.text.vocabulary import SPECIALS

MAPS = ("inclination", "state")
SEEN = 5  # words that occur less often say nothing about their spread
BATCH = 50


def perceived(run: Path, data: Path, examples: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the words [N] of the first dev examples and their maps [N, 32]."""
    model, split = load_bundle(run).model, PreparedData(data).examples("dev")
    words, maps = [], {name: [] for name in MAPS}
    with torch.inference_mode():
        for start in range(0, min(examples, len(split)), BATCH):
            batch = split.batch(np.arange(start, min(start + BATCH, examples, len(split))))
            perception = model.encode(batch, perceive=True).perception
            real = batch.context >= len(SPECIALS)
            words.append(batch.context[real])
            for name in MAPS:
                maps[name].append(getattr(perception, name)[real])
    return torch.cat(words).numpy(), {name: torch.cat(parts).double().numpy() for name, parts in maps.items()}


def main() -> None:
    """Print the table."""
    run, data = Path(sys.argv[1]), Path(sys.argv[2])
    words, maps = perceived(run, data, int(sys.argv[3]) if len(sys.argv) > 3 else 1000)
    _, number, counts = np.unique(words, return_inverse=True, return_counts=True)
    frequent = counts[number] >= SEEN
    number = np.unique(number[frequent], return_inverse=True)[1]
    print(f"{len(number):,} words of dev, each seen at least {SEEN} times\n")
    print("| map | variance that is left when the word is known | strongest emotion is the word's commonest one |")
    print("|---|---:|---:|")
    for name, values in maps.items():
        values = values[frequent]
        means = np.zeros((number.max() + 1, values.shape[1]))
        np.add.at(means, number, values)
        means /= np.bincount(number)[:, None]
        left = ((values - means[number]) ** 2).sum() / ((values - values.mean(axis=0)) ** 2).sum()
        votes = np.zeros(means.shape, dtype=int)
        np.add.at(votes, (number, values.argmax(axis=1)), 1)
        print(f"| {name} | {100 * left:.1f} % | {100 * votes.max(axis=1).sum() / len(number):.0f} % |")


if __name__ == "__main__":
    main()
