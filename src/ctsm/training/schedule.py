"""The learning-rate schedule of Vaswani et al. (2017), section 5.3."""

from __future__ import annotations


def noam_rate(step: int, size: int, warmup: int, factor: float = 1.0) -> float:
    """Return factor * size^-0.5 * min(step^-0.5, step * warmup^-1.5) for `step` counted from 1.

    With size 300 and warmup 8000 it rises to 6.46e-4 at step 8000 and falls with the root of the step.
    """
    return factor * size**-0.5 * min(step**-0.5, step * warmup**-1.5)
