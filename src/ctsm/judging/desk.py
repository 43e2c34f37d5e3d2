"""What an annotator's page is told and may say: sides instead of systems, verdicts turned both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ctsm.judging.store import Store
from ctsm.judging.study import ASPECTS, Side, Trial, Verdict

Choice = Literal["left", "tie", "right"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


def verdict(choice: Choice, left: Side) -> Verdict:
    """Turn a choice into a verdict on reply A, given which reply stands on the left."""
    if choice == "tie":
        return "tie"
    return "win" if (choice == "left") == (left == "a") else "lose"


def choice(given: Verdict, left: Side) -> Choice:
    """Turn a verdict on reply A back into the choice that was made."""
    if given == "tie":
        return "tie"
    return "left" if (given == "win") == (left == "a") else "right"


def answer(store: Store, annotator: str, trial: str, revision: int, choices: Mapping[str, Choice]) -> None:
    """Store an annotator's choices in one trial.

    Raises:
        ConflictError: as `Store.answer`.
    """
    left: Side = next((own.left for own in store.sequence(annotator) if own.id == trial), "a")
    verdicts = {aspect: verdict(chosen, left) for aspect, chosen in choices.items()}
    store.answer(annotator, trial, revision, verdicts)


def state(store: Store, annotator: str) -> dict[str, Any]:
    """Return all that an annotator's page may know, as JSON.

    Neither the systems, the pair, the item nor whether it is a catch trial is part of it.
    """
    study, trials, standing = store.study(), store.sequence(annotator), store.standing(annotator)
    last = trials[standing.done - 1] if standing.done else None
    shown = None
    if standing.done < len(trials) and not standing.closed:
        shown = _shown(trials[standing.done])
        left = trials[standing.done].left
        shown["revision"] = standing.revision
        shown["earlier"] = {aspect: choice(given, left) for aspect, given in standing.withdrawn.items()}
    return {
        "guidelines": study.guidelines,
        "aspects": [{"name": aspect, "question": ASPECTS[aspect]} for aspect in study.aspects],
        "done": standing.done,
        "total": len(trials),
        "closed": standing.closed,
        "trial": shown,
        "last": {"id": last.id, "revision": standing.last_revision} if last and not standing.closed else None,
    }


def _shown(trial: Trial) -> dict[str, Any]:
    replies = (trial.reply_a, trial.reply_b) if trial.left == "a" else (trial.reply_b, trial.reply_a)
    return {"id": trial.id, "context": list(trial.context), "left": replies[0], "right": replies[1]}
