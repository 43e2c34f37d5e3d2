"""The two sets of messages that the patterns of `ctsm.care` are measured on, written before the patterns were.

They are not changed to fit the patterns; docs/care.md lists what is missed.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def messages(name: str) -> list[str]:
    return (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def test_both_sets_hold_a_hundred_different_messages() -> None:
    must_trigger, near_misses = messages("must_trigger"), messages("near_misses")
    assert len(must_trigger) == len(near_misses) == 100
    assert len({message.casefold().strip() for message in must_trigger + near_misses}) == 200
    assert all(message == message.strip() != "" for message in must_trigger + near_misses)


def test_the_sets_have_typing_as_people_do_it() -> None:
    for name in ("must_trigger", "near_misses"):
        lower_case = [message for message in messages(name) if message == message.lower()]
        assert len(lower_case) >= 10
        assert any("'" in message for message in messages(name))
