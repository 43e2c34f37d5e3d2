"""Scoring the replies of any system from a file, without its model (`ctsm score`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from ctsm.errors import CtsmError
from ctsm.evaluation.metrics import Bleu, bleu4, distinct, reply_statistics
from ctsm.evaluation.replies import read_reply_tokens


@dataclass(frozen=True)
class Score:
    """The scores of `n` replies: Dist and BLEU in percent, lengths in tokens, n-gram counts in total."""

    n: int
    dist1: float
    dist2: float
    unigrams: int
    bigrams: int
    mean_length: float
    distinct_replies: int
    empty_replies: int
    bleu: Bleu | None

    def as_json(self) -> dict[str, int | float | str]:
        """Return the object that `ctsm score --json` prints; the BLEU keys only where references were given."""
        values: dict[str, int | float | str] = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "bleu"
        }
        if self.bleu is not None:
            values |= {"bleu4": self.bleu.score, "bleu_signature": self.bleu.signature}
        return values

    def as_table(self) -> Table:
        """Return the table that `ctsm score` prints; n stands first, since Dist means nothing without it."""
        table = Table("metric", "value")
        table.columns[1].justify = "right"
        table.add_row("n (replies)", f"{self.n:,}")
        table.add_row("Dist-1 (%)", f"{self.dist1:.2f}")
        table.add_row("Dist-2 (%)", f"{self.dist2:.2f}")
        table.add_row("unigrams", f"{self.unigrams:,}")
        table.add_row("bigrams", f"{self.bigrams:,}")
        table.add_row("mean length (tokens)", f"{self.mean_length:.2f}")
        table.add_row("distinct replies", f"{self.distinct_replies:,}")
        table.add_row("empty replies", f"{self.empty_replies:,}")
        if self.bleu is not None:
            table.add_row("BLEU-4 (%)", f"{self.bleu.score:.2f}")
            table.caption = self.bleu.signature
        return table


def score_replies(replies: Sequence[Sequence[str]], references: Sequence[Sequence[str]] | None = None) -> Score:
    """Return the scores of tokenised replies, with BLEU-4 where one tokenised reference a reply is given."""
    unigrams, bigrams, statistics = distinct(replies, 1), distinct(replies, 2), reply_statistics(replies)
    return Score(
        n=len(replies),
        dist1=unigrams.ratio_percent,
        dist2=bigrams.ratio_percent,
        unigrams=unigrams.total,
        bigrams=bigrams.total,
        mean_length=statistics.mean_length,
        distinct_replies=statistics.distinct_replies,
        empty_replies=statistics.empty,
        bleu=None if references is None else bleu4(replies, references),
    )


def score_files(replies: Path, references: Path | None = None) -> Score:
    """Score a file of replies: tokenised plain text, or a replies file (JSONL), of which `reply_tokens` is read.

    The references are a file of either kind, line for line in the same order. The `reference` of a replies file is
    readable text and not tokens, so it is never used for BLEU.

    Raises:
        CtsmError: a file is wrong or holds no reply, the two differ in length, a reference is empty, or both are
            the same file.
    """
    tokens = read_reply_tokens(replies)
    if not tokens:
        raise CtsmError(f"{replies}: holds no reply; give a file with one tokenised reply a line.")
    if references is None:
        return score_replies(tokens)
    gold = read_reply_tokens(references)
    if references.samefile(replies):
        raise CtsmError(
            f"{references}: is the file of replies itself; give a file with one tokenised reference a line."
        )
    if len(gold) != len(tokens):
        raise CtsmError(
            f"{references}: number of references {len(gold)}, but number of replies in {replies} {len(tokens)}; "
            "give one reference for each reply, in the same order."
        )
    if not all(gold):
        line = next(number for number, reference in enumerate(gold, start=1) if not reference)
        raise CtsmError(f"{references}, line {line}: the reference is empty; leave out that line in both files.")
    return score_replies(tokens, gold)
