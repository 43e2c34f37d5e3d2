"""The design of a study: which items, in which order, which reply on which side, which catch trials.

Everything follows from the seed. Sampling, sides and orders draw from streams of their own, so that another pair or
another annotator leaves the sampled items as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from ctsm.errors import CtsmError
from ctsm.evaluation.replies import Reply
from ctsm.judging.pairs import PairReplies
from ctsm.judging.study import ASPECTS, STUDY_SCHEMA, Study, Trial

REAL_PER_CATCH = 10
FEWEST_CATCH = 2
MOST_ANNOTATORS = 1_000
CANDIDATES = 16
"""How many replies are looked at for a catch trial; the most specific one is taken."""


@dataclass(frozen=True, kw_only=True)
class DesignOptions:
    """What the person who makes a study decides."""

    aspects: tuple[str, ...]
    annotators: int
    items: int
    seed: int
    guidelines: str


def design_study(pairs: Sequence[PairReplies], options: DesignOptions, created: str) -> Study:
    """Sample items, balance sides, add catch trials and shuffle each annotator's sequence.

    Args:
        pairs: at least one, all over the same ids (`read_pairs`).
        options: checked here.
        created: the time of creation, UTC, ISO 8601; the only part of the study that the seed does not decide.

    Raises:
        CtsmError: an option is out of range, an aspect unknown, or there are fewer contexts than items asked for.
    """
    _check(options, len(pairs[0].a))
    ids = list(pairs[0].a)
    items = _stream(options, "items").sample(ids, options.items)
    annotators = tuple(str(number) for number in range(1, options.annotators + 1))
    trials = [trial for pair in pairs for trial in _real_trials(pair, items, annotators, options)]
    trials += _catch_trials(pairs, items, annotators, len(items) * len(pairs), options)
    return Study(
        schema=STUDY_SCHEMA,
        created=created,
        seed=options.seed,
        aspects=options.aspects,
        annotators=annotators,
        pairs=tuple(pair.pair for pair in pairs),
        items=tuple(items),
        guidelines=_storable(options.guidelines),
        trials=tuple(trial for annotator in annotators for trial in _sequence(trials, annotator, options)),
    )


def balanced_sides(annotators: int, items: int, random: Random) -> list[list[bool]]:
    """Decide who sees reply A on the left for which item: [annotators][items].

    Each annotator has A on the left in half of the items, and each item has it on the left for half of the annotators,
    both to within one where the number is odd. A chessboard has these counts; exchanging the two values of a pair of
    annotators on a pair of items where both see opposite sides keeps them, and many such exchanges at random places
    leave nothing of the board.
    """
    rows, columns = random.sample(range(annotators), annotators), random.sample(range(items), items)
    start = random.randrange(2)
    left = [[(row + column + start) % 2 == 0 for column in columns] for row in rows]
    for _ in range(10 * annotators * items if annotators > 1 and items > 1 else 0):
        (r1, r2), (c1, c2) = random.sample(range(annotators), 2), random.sample(range(items), 2)
        if left[r1][c1] == left[r2][c2] != left[r1][c2] == left[r2][c1]:
            for row, column in ((r1, c1), (r1, c2), (r2, c1), (r2, c2)):
                left[row][column] = not left[row][column]
    return left


def _check(options: DesignOptions, available: int) -> None:
    """Refuse options that make no study."""
    unknown = [aspect for aspect in options.aspects if aspect not in ASPECTS]
    if unknown or not options.aspects:
        raise CtsmError(f"--aspects: {unknown[0] if unknown else ''!r} is unknown; choose of {', '.join(ASPECTS)}.")
    if len(set(options.aspects)) < len(options.aspects):
        raise CtsmError("--aspects: an aspect is named twice; name each once.")
    if not 1 <= options.annotators <= MOST_ANNOTATORS:
        raise CtsmError(f"--annotators: must be 1 to {MOST_ANNOTATORS:,}, not {options.annotators}.")
    if options.items < 1:
        raise CtsmError(f"--items: must be 1 or more, not {options.items}.")
    if available < options.items:
        raise CtsmError(
            f"--items {options.items}: the replies files hold only {available}; ask for that many or fewer."
        )
    if not options.guidelines.strip():
        raise CtsmError("the guidelines are empty; write what annotators should read first.")


def _stream(options: DesignOptions, purpose: str) -> Random:
    """Return the stream of random numbers for one purpose."""
    return Random(f"{options.seed} {purpose}")


def _real_trials(
    pair: PairReplies, items: Sequence[str], annotators: Sequence[str], options: DesignOptions
) -> list[Trial]:
    """Return the trials of one pair, without id and place."""
    sides = balanced_sides(len(annotators), len(items), _stream(options, f"sides of {pair.pair.name}"))
    return [
        _trial(pair.a[item], annotator, sides[row][column], pair.pair.name, pair.a[item].reply, pair.b[item].reply)
        for row, annotator in enumerate(annotators)
        for column, item in enumerate(items)
    ]


def _catch_trials(
    pairs: Sequence[PairReplies], items: Sequence[str], annotators: Sequence[str], real: int, options: DesignOptions
) -> list[Trial]:
    """Return the catch trials, without id and place: the same for every annotator, on sides of their own.

    Contexts outside the study come first, so that as few references as possible show what a good reply to a judged
    context is.
    """
    random = _stream(options, "catch trials")
    contexts = pairs[0].a
    chosen = set(items)
    outside = [item for item in contexts if item not in chosen]
    order = random.sample(outside, len(outside)) + random.sample(items, len(items))
    replies = [
        reply for pair in pairs for system in (pair.a, pair.b) for reply in system.values() if reply.reply.strip()
    ]
    wanted = max(FEWEST_CATCH, round(real / REAL_PER_CATCH))
    caught = list[tuple[Reply, str]]()
    for item in order:
        wrong = _unfitting_reply(contexts[item], replies, random)
        if wrong is not None:
            caught.append((contexts[item], wrong))
        if len(caught) == wanted:
            break
    sides = balanced_sides(len(annotators), len(caught), random)
    return [
        _trial(item, annotator, sides[row][column], "", item.reference or "", wrong)
        for row, annotator in enumerate(annotators)
        for column, (item, wrong) in enumerate(caught)
    ]


def _unfitting_reply(item: Reply, replies: Sequence[Reply], random: Random) -> str | None:
    """Choose a reply to a context of another conversation; None where there is none, or no reference.

    A reply such as "that is great!" would fit here too. So it answers another emotion where the labels are known, and
    of some candidates it is the one with the most words that the item does not have.
    """
    reference = item.reference or ""
    if not reference.strip():
        return None
    others = [
        reply
        for reply in replies
        if reply.conversation_id != item.conversation_id and reply.reply.split() != reference.split()
    ]
    others = [reply for reply in others if reply.emotion != item.emotion] or others
    if not others:
        return None
    known = set(" ".join([*item.context, reference]).lower().split())
    candidates = random.sample(others, min(CANDIDATES, len(others)))
    return max(candidates, key=lambda reply: len(set(reply.reply.lower().split()) - known)).reply


def _trial(item: Reply, annotator: str, a_left: bool, pair: str, reply_a: str, reply_b: str) -> Trial:
    """Build a trial without id and place; one without a pair is a catch trial."""
    return Trial(
        id="",
        annotator=annotator,
        place=0,
        pair=pair,
        item=item.id,
        catch=not pair,
        left="a" if a_left else "b",
        context=tuple(map(_storable, item.context)),
        reply_a=_storable(reply_a),
        reply_b=_storable(reply_b),
    )


def _sequence(trials: Sequence[Trial], annotator: str, options: DesignOptions) -> list[Trial]:
    """Return one annotator's trials in random order, with ids that say nothing."""
    random = _stream(options, f"sequence of {annotator}")
    own = [trial for trial in trials if trial.annotator == annotator]
    random.shuffle(own)
    return [replace(trial, id=f"{random.getrandbits(96):024x}", place=place) for place, trial in enumerate(own)]


def _storable(text: str) -> str:
    """Replace what a database cannot hold: NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
