"""Answer every trial of a study by three rules, then close it: shows a study without people.

The rules: the reply that shares more words with the context is better; the longer one, up to 12 words; the one that
repeats fewer of its words. RULES says which rule each of three annotators takes for which aspect. Where a rule sees no
difference it is a tie. What comes out says nothing about the systems.

Usage: python scripts/judge_by_rule.py STUDY
"""

import sys
from collections.abc import Callable

from ctsm.judging.store import Store
from ctsm.judging.study import Trial, Verdict
from ctsm.text.tokenise import tokenise


def shared_words(trial: Trial, reply: str) -> float:
    """Count the different words that the reply has from the context."""
    return len(set(tokenise(reply)) & {word for turn in trial.context for word in tokenise(turn)})


def length(_trial: Trial, reply: str) -> float:
    """Count words, up to 12."""
    return min(len(tokenise(reply)), 12)


def variety(_trial: Trial, reply: str) -> float:
    """Return the share of words that are not repeated."""
    words = tokenise(reply)
    return len(set(words)) / max(len(words), 1)


RULES: dict[str, tuple[Callable[[Trial, str], float], ...]] = {
    "empathy": (length, shared_words, variety),
    "relevance": (shared_words, shared_words, length),
    "fluency": (variety, variety, length),
}


def main() -> None:
    """Judge the study that the command line names."""
    store = Store.open(sys.argv[1])
    study = store.study()
    for number, annotator in enumerate(study.annotators):
        for trial in store.sequence(annotator):
            verdicts: dict[str, Verdict] = {}
            for aspect in study.aspects:
                rule = RULES[aspect][number % 3]
                difference = rule(trial, trial.reply_a) - rule(trial, trial.reply_b)
                verdicts[aspect] = "win" if difference > 0 else "lose" if difference < 0 else "tie"
            store.answer(annotator, trial.id, 0, verdicts)
    store.close_study()
    store.close()


if __name__ == "__main__":
    main()
