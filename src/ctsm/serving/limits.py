"""What the operator of a service may set."""

from __future__ import annotations

from dataclasses import dataclass

from ctsm.decoding.options import MAX_TOKENS


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    Attributes:
        max_queue: requests that may wait for the model.
        max_tokens: words of a reply at most.
        max_body: bytes of a request at most.
        timeout: seconds until a request is given up, and until its body must be there.
        care: whether messages that suggest danger get a notice instead of the model's text.
    """

    max_queue: int = 256
    max_tokens: int = MAX_TOKENS
    max_body: int = 256 * 1024
    timeout: float = 30.0
    care: bool = True
