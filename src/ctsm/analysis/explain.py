"""What a model felt while it read a context and wrote its reply (Figure 1 of the paper, for any text).

Two maps show the state of a word, and they are not the same thing:

- `inclination` (V_cos, eq. 7) compares the word with the 32 emotion words. Beside the word it sees only position and
  speaker, so it is nearly the same in every context.
- `state` is the emotion head applied to the word alone (eqs. 11-14 without the pooling). It reads the word after the
  encoders, so it depends on the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from ctsm.corpus.emotions import EMOTIONS
from ctsm.decoding.decode import encode_and_decode
from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.single import Hypothesis
from ctsm.errors import CtsmError
from ctsm.evaluation.fields import to_json
from ctsm.models.base import Context, EmpatheticModel
from ctsm.models.ctsm import CTSM
from ctsm.nn.pointer import CopySource, PointerGenerator
from ctsm.serving.responder import Collated, Responder, Response, TokenEmotions

RELATION_WORDS = {
    "xIntent": "wanted (xIntent)",
    "xNeed": "needed before (xNeed)",
    "xWant": "wants next (xWant)",
    "xEffect": "effect (xEffect)",
    "xReact": "feels (xReact)",
}
"""What the relations of an inference say of the speaker."""


@dataclass(frozen=True)
class ReplyWord:
    """Where a word of the reply came from.

    Attributes:
        token: the word.
        copied: share of the word's probability that comes from copying it, in [0, 1].
        weights: probability of copying from each word of the context; their sum is what the gate leaves to copying.
    """

    token: str
    copied: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Explanation:
    """A reply, the emotions behind it and what they rest on.

    Attributes:
        system: the model's name.
        turns: the conversation.
        response: the reply with the emotions perceived, word by word, and the inferences used.
        standardised: inclination of each word in standard deviations from the mean of the vocabulary's words, for
            each of the 32 emotions.
        reply: the reply's words.
        rest: share of the mark before the first word (CLS) in what the emotion head reads; None without attention.
    """

    system: str
    turns: tuple[str, ...]
    response: Response
    standardised: tuple[tuple[float, ...], ...]
    reply: tuple[ReplyWord, ...]
    rest: float | None

    @property
    def words(self) -> tuple[TokenEmotions, ...]:
        """The words of the context, as the model reads them."""
        return self.response.context_tokens

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; `emotions` names the order of the 32 numbers."""
        return {"emotions": list(EMOTIONS), **to_json(self)}


def explain(responder: Responder, turns: Sequence[str], options: DecodingOptions | None = None) -> Explanation:
    """Reply to a conversation and trace what the reply rests on.

    Args:
        responder: from `ctsm.load`.
        turns: as for `Responder.respond`.
        options: how the reply is made; greedily by default.

    Raises:
        CtsmError: the model perceives no emotions word by word, or the conversation cannot be answered.
    """
    model = responder.bundle.model
    if not can_explain(model):
        name = " ".join(filter(None, [responder.bundle.config.model, responder.bundle.config.variant]))
        raise CtsmError(
            f"{responder.bundle.directory}: its model ({name}) does not perceive trait and state emotions word by "
            "word; give a run of CTSM."
        )
    with torch.inference_mode():
        collated = responder.collate([turns])
        encoded, replies = encode_and_decode(model, collated.batch, options or DecodingOptions(), perceive=True)
        return Explainer(responder).explanation(Reading(collated, encoded), 0, turns, replies[0][0])


class Reading(NamedTuple):
    """Conversations that were encoded together, with their emotion maps."""

    collated: Collated
    encoded: Context


class Explainer:
    """Explains finished replies; holds what all explanations share.

    Args:
        responder: whose model `can_explain`.
    """

    def __init__(self, responder: Responder) -> None:
        assert can_explain(responder.bundle.model)
        self._responder, self._model = responder, responder.bundle.model
        with torch.inference_mode():
            reference_VE = self._model.inclination_of_words().cpu()
            self._mean_E, self._deviation_E = reference_VE.mean(dim=0), reference_VE.std(dim=0, correction=0)

    def explanation(self, reading: Reading, row: int, turns: Sequence[str], reply: Hypothesis) -> Explanation:
        """Trace what the reply to one conversation of a batch rests on.

        Args:
            reading: the batch.
            row: place of the conversation.
            turns: the conversation.
            reply: to it.
        """
        response = self._responder.response_of(*reading, row, [reply])
        alone = _row_of(reading.encoded, row, len(reading.collated.kept[row].ids))
        return Explanation(
            system=self._responder.bundle.config.model,
            turns=tuple(turns),
            response=response,
            standardised=self.standardised(response.context_tokens),
            reply=_trace(self._model, alone, reply, response.tokens),
            rest=_rest(reading.encoded, row),
        )

    def standardised(self, words: Sequence[TokenEmotions]) -> tuple[tuple[float, ...], ...]:
        """Return the inclination of words [S, E] in standard deviations from the mean over the vocabulary."""
        inclination_SE = torch.tensor([word.inclination for word in words]).reshape(len(words), len(self._mean_E))
        return tuple(map(tuple, ((inclination_SE - self._mean_E) / self._deviation_E).tolist()))


def can_explain(model: EmpatheticModel) -> TypeGuard[CTSM]:
    """Tell whether a model perceives trait and state emotions word by word."""
    return isinstance(model, CTSM) and model.options.without != "SEE"


def _row_of(encoded: Context, row: int, length: int) -> Context:
    """Cut out of a batch, without padding, what decoding needs of one conversation."""
    return replace(
        encoded,
        memory=encoded.memory[row : row + 1, :length],
        real=encoded.real[row : row + 1, :length],
        source=CopySource(*(field[row : row + 1, :length] for field in encoded.source)),
        start=encoded.start[row : row + 1],
        emotion_logits=None,
        perception=None,
    )


def _rest(encoded: Context, row: int) -> float | None:
    assert encoded.perception is not None
    attention = encoded.perception.attention
    return None if attention is None else float(attention[row, 0])


def _trace(model: CTSM, encoded: Context, reply: Hypothesis, tokens: Sequence[str]) -> tuple[ReplyWord, ...]:
    """Run the decoder over the finished reply and read the copy weights at each of its words."""
    if not tokens:
        return ()
    words_1T = torch.tensor([list(reply.words)], device=encoded.memory.device)
    step = model.decode(words_1T[:, :-1], encoded, model.start_decoding(encoded))
    hidden_TD, copy_TS = step.hidden[0], step.copy_scores[0]
    source = encoded.source.rows(torch.zeros_like(words_1T[0]))
    generator = model.generator
    assert isinstance(generator, PointerGenerator)
    weights_TS = generator.copy_weights(hidden_TD, copy_TS, source)
    probability_T = generator.score(hidden_TD, copy_TS, source, words_1T[0]).log_probability.exp()
    same_TS = source.ids == words_1T[0][:, None]
    copied_T: Tensor = (weights_TS * same_TS).sum(dim=1) / probability_T
    return tuple(
        ReplyWord(token, min(copied, 1.0), tuple(weights))
        for token, copied, weights in zip(tokens, copied_T.tolist(), weights_TS[:, 1:].tolist(), strict=True)
    )
