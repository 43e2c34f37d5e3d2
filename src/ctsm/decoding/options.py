"""How replies are made from a model: the method and its settings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ctsm.options import check_options

Method = Literal["greedy", "beam", "sample"]
Precision = Literal["fp32", "bf16"]

MAX_TOKENS = 51
"""The family's limit: a loop of 51 steps."""

SECTION = "decoding"
"""How messages name the group of these settings."""

LARGEST = 1_000
"""Upper limit of lengths and beams: far beyond any use, low enough to fit in memory."""

READ_BY: dict[str, Method] = {
    "beam_size": "beam",
    "length_penalty": "beam",
    "n_best": "beam",
    "temperature": "sample",
    "top_k": "sample",
    "top_p": "sample",
    "seed": "sample",
}
"""Settings that one method alone reads; all methods read the others."""


@dataclass(frozen=True)
class DecodingOptions:
    """A method of decoding and its settings; `repetition`, `beam` and `sampling` define what each of them does.

    Attributes:
        method: the most probable word at each step, beam search, or sampling.
        max_tokens: words of a reply at most; a longer one is cut.
        beam_size: unfinished replies that beam search follows at a time.
        length_penalty: alpha; beam search ranks replies by their log-probability / length^alpha.
        n_best: replies that beam search returns, the best first.
        temperature: sampling draws by p^(1 / temperature).
        top_k: sampling draws among this many most probable words; 0 for all.
        top_p: sampling draws among the fewest most probable words that have this probability together; 1 for all.
        no_repeat_ngram: no sequence of this many words occurs twice in a reply; 0 for no such rule.
        repetition_penalty: factor on the log-probability of a word that the reply has already; 1 for none.
        seed: of sampling; None draws a new one each time.
        precision: of encoding contexts; bf16 is faster for large batches on processors with bf16 units, and a few
            replies differ.
    """

    method: Method = "greedy"
    max_tokens: int = MAX_TOKENS
    beam_size: int = 5
    length_penalty: float = 1.0
    n_best: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        """Refuse values that make no sense, and settings that the method does not read.

        Raises:
            ValueError: the message names the field, as in "decoding.beam_size".
        """
        seed_is_number = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 1 << 63
        self._require("seed", self.seed is None or seed_is_number, "a whole number from 0 to 2^63 - 1")
        check_options(self, SECTION)
        for name in ("max_tokens", "beam_size"):
            self._require(name, 1 <= getattr(self, name) <= LARGEST, f"from 1 to {LARGEST:,}")
        self._require("n_best", 1 <= self.n_best <= self.beam_size, f"from 1 to {SECTION}.beam_size ({self.beam_size})")
        self._require("length_penalty", 0 <= self.length_penalty <= 10, "from 0 to 10")
        self._require("temperature", self.temperature > 0, f"greater than 0 (for 0 set {SECTION}.method to greedy)")
        self._require("top_k", self.top_k >= 0, "at least 0 (0 is off)")
        self._require("top_p", 0 < self.top_p <= 1, "greater than 0 and at most 1 (1 is off)")
        self._require("no_repeat_ngram", self.no_repeat_ngram >= 0, "at least 0 (0 is off)")
        self._require("repetition_penalty", self.repetition_penalty >= 1, "at least 1 (1 is off)")
        defaults = {field.name: field.default for field in fields(self)}
        for name, method in READ_BY.items():
            value = getattr(self, name)
            if self.method != method and value != defaults[name]:
                raise ValueError(
                    f"{SECTION}.{name} is {value}, which only the method {method} reads; "
                    f"set {SECTION}.method to {method}, or leave {SECTION}.{name} out"
                )

    def _require(self, name: str, holds: bool, condition: str) -> None:
        if not holds:
            raise ValueError(f"{SECTION}.{name} is {getattr(self, name)}; it must be {condition}")

    @property
    def controls_repetition(self) -> bool:
        """Whether what was said changes what may be said."""
        return self.no_repeat_ngram > 0 or self.repetition_penalty > 1
