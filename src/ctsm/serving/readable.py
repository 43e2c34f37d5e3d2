"""A reply as readable text while it grows, ended by the strings that a client does not want to see."""

from __future__ import annotations

from collections.abc import Sequence

from ctsm.text.detokenise import Detokeniser


class ReadableReply:
    """Turns tokens into pieces of text that can be shown at once; what was shown is never taken back.

    The pieces that `push` and finally `finish` return join to `text`: the detokenised reply, up to the first stop
    string. The reply ends with the token that completes a stop string.

    Args:
        stops: the stop strings, none of them empty.

    Attributes:
        text: what was returned so far.
        stopped: whether a stop string was found; nothing is returned after it.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._detokeniser = Detokeniser()
        self._stops = stops
        self._held = ""  # may be the beginning of a stop string
        self.text = ""
        self.stopped = False

    def push(self, token: str) -> str:
        """Take the next token and return the text to append now (it can be empty)."""
        return self._show(self._detokeniser.push(token))

    def finish(self) -> str:
        """Return what was still held back."""
        piece = self._show(self._detokeniser.finish())
        held, self._held = self._held, ""
        self.text += held
        return piece + held

    def _show(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        self.stopped = bool(ends)
        shown = min(ends) if ends else len(text) - self._beginning_of_stop(text)
        self._held = "" if self.stopped else text[shown:]
        self.text += text[:shown]
        return text[:shown]

    def _beginning_of_stop(self, text: str) -> int:
        """Return how many characters at the end of `text` may be the beginning of a stop string."""
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        return next(
            (count for count in range(longest, 0, -1) if any(stop.startswith(text[-count:]) for stop in self._stops)),
            0,
        )
