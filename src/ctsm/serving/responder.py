"""From text turns to a reply and the emotions behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctsm.care import notice_for_conversation
from ctsm.corpus.batches import Batch, Ragged, collated_extras
from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.encoding import EncodedContext, encode_context, encode_inferences
from ctsm.corpus.extras import ExtrasBuilder, WordKnowledge, needs_of, sub_utterances
from ctsm.decoding.decode import encode_and_decode
from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.single import Hypothesis
from ctsm.errors import CtsmError
from ctsm.knowledge.inference import RELATIONS, Inferences, InferenceSource
from ctsm.models.base import Context
from ctsm.models.bundle import Bundle
from ctsm.text.detokenise import detokenise
from ctsm.text.normalise import is_blank
from ctsm.text.tokenise import tokenise
from ctsm.text.vocabulary import CLS, PAD, SYS

MAX_CONTEXT = 512
"""Tokens of a context that are read, CLS included; of a longer one the last are kept."""

GREEDY = DecodingOptions()


@dataclass(frozen=True)
class TokenEmotions:
    """What the model perceives at one word of the context.

    Attributes:
        token: the word as the model reads it.
        role: "speaker" or "listener".
        in_lexicon: whether the VAD lexicon has the word.
        trait: valence, arousal and dominance in [0, 1], or None for a word outside the lexicon.
        inclination: cosine with each of the 32 emotion words, in [-1, 1] (eq. 7); nearly the same in every context.
        state: probability of each of the 32 emotions by this word alone, in this context.
        intensity: weight of the word by its emotional intensity (eq. 11); 1 is the mean of the context.
        attention: share of the word in what the emotion head reads (eq. 12); None for a head without attention. The
            words' shares and that of the mark before them (CLS) sum to 1.
    """

    token: str
    role: str
    in_lexicon: bool
    trait: tuple[float, float, float] | None
    inclination: tuple[float, ...]
    state: tuple[float, ...]
    intensity: float
    attention: float | None


@dataclass(frozen=True)
class Response:
    """A reply and what led to it.

    Attributes:
        text: readable reply.
        tokens: the reply's raw tokens.
        emotion: the most probable emotion of the context; None from a model without an emotion head.
        probabilities: probability of each of the 32 emotions, by name; empty from a model without an emotion head.
        context_tokens: emotions perceived at each word of the context.
        inferences: phrases inferred from the last turn, by relation; none with a notice.
        truncated: whether the beginning of a long context was left out.
        alternatives: further readable replies, from the second best on, where n-best decoding was asked for.
        notice: the care notice where a turn of the speaker suggests self-harm or danger, else None. With a notice,
            `text` is the notice, and there are no tokens, alternatives and inferences (their phrases can be violent);
            the emotions are given all the same.
    """

    text: str
    tokens: tuple[str, ...]
    emotion: str | None
    probabilities: dict[str, float]
    context_tokens: tuple[TokenEmotions, ...]
    inferences: dict[str, tuple[str, ...]]
    truncated: bool
    alternatives: tuple[str, ...] = ()
    notice: str | None = None

    def top_emotions(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the most probable emotions with their probabilities."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]


class Collated(NamedTuple):
    """Conversations as the model reads them.

    Attributes:
        batch: on the model's device, without gold labels and replies.
        contexts: of each conversation, whole.
        kept: the same, cut to the last `MAX_CONTEXT` tokens where they were longer.
        inferences: from each last turn.
        notices: what is said instead of a reply where a conversation suggests danger, else None.
    """

    batch: Batch
    contexts: list[EncodedContext]
    kept: list[EncodedContext]
    inferences: list[Inferences]
    notices: list[str | None]


class Responder:
    """Answers conversations with a loaded model.

    Args:
        bundle: from `load_bundle`.
        care: whether a conversation that suggests self-harm or danger gets a notice instead of a reply (docs/care.md).
    """

    def __init__(self, bundle: Bundle, care: bool = True) -> None:
        self.bundle = bundle
        self.care = care
        self._device = next(bundle.model.parameters()).device

    @cached_property
    def source(self) -> InferenceSource:
        """The inference source that came with the model."""
        return self.bundle.source()

    @cached_property
    def word_knowledge(self) -> WordKnowledge:
        """What the model needs to know of each word beyond its own tables."""
        return self.bundle.word_knowledge()

    def respond(self, turns: Sequence[str], options: DecodingOptions = GREEDY) -> Response:
        """Reply to one conversation.

        Args:
            turns: what was said, the speaker first and last, so an odd number of turns.
            options: how the reply is made; greedily by default.

        Raises:
            CtsmError: there is no turn, the last one is the listener's, or one has no words.
        """
        return self.respond_batch([turns], options)[0]

    def respond_batch(
        self,
        conversations: Sequence[Sequence[str]],
        options: DecodingOptions = GREEDY,
        seeds: Sequence[int] | None = None,
    ) -> list[Response]:
        """Reply to several conversations at once; the replies are those that one by one would get.

        Args:
            conversations: the turns of each.
            options: how the replies are made; greedily by default.
            seeds: of each conversation, for sampling; by default its place in the batch.
        """
        if not conversations:
            return []
        collated = self.collate(conversations)
        encoded, replies = encode_and_decode(self.bundle.model, collated.batch, options, seeds, perceive=True)
        return self.responses(collated, encoded, replies)

    def collate(self, conversations: Sequence[Sequence[str]]) -> Collated:
        """Tokenise and encode conversations, infer from their last turns and put all into one batch.

        Raises:
            CtsmError: as for `respond`.
        """
        for turns in conversations:
            check_conversation(turns)
        tokenised = [[tokenise(turn) for turn in turns] for turns in conversations]
        contexts = [encode_context(self.bundle.vocabulary, turns) for turns in tokenised]
        kept = [_keep_last(context) for context in contexts]
        utterances = [turns[-1] for turns in conversations]
        inferences = self.source.infer(utterances)
        notices = [notice_for_conversation(turns) if self.care else None for turns in conversations]
        batch = self._batch(kept, inferences, utterances).to(self._device)
        return Collated(batch, contexts, kept, inferences, notices)

    def responses(
        self, collated: Collated, encoded: Context, replies: Sequence[Sequence[Hypothesis]]
    ) -> list[Response]:
        """Put into words what `encode_and_decode` made of collated conversations."""
        return [self.response_of(collated, encoded, row, hypotheses) for row, hypotheses in enumerate(replies)]

    def response_of(self, collated: Collated, encoded: Context, row: int, hypotheses: Sequence[Hypothesis]) -> Response:
        """Put one row of a batch into words; `hypotheses` are its replies, best first."""
        context, kept, notice = collated.contexts[row], collated.kept[row], collated.notices[row]
        tokens, *others = (tuple(self.bundle.vocabulary.words_of(reply.words, context.oov)) for reply in hypotheses)
        probabilities = _probabilities(encoded, row)
        response = Response(
            text=detokenise(tokens),
            tokens=tokens,
            emotion=max(probabilities, key=probabilities.__getitem__, default=None),
            probabilities=probabilities,
            context_tokens=self._token_emotions(encoded, row, kept),
            inferences=dict(zip(RELATIONS, collated.inferences[row], strict=True)),
            truncated=kept is not context,
            alternatives=tuple(map(detokenise, others)),
        )
        if notice is None:
            return response
        return replace(response, text=notice, tokens=(), alternatives=(), inferences={}, notice=notice)

    def _batch(self, contexts: list[EncodedContext], inferences: list[Inferences], utterances: list[str]) -> Batch:
        """Collate contexts and what the model needs of them; there are no gold labels or replies."""
        cognitive, reactions = list[list[int]](), list[list[int]]()
        for inference in inferences:
            rows, reaction = encode_inferences(self.bundle.vocabulary, inference, _phrase_words)
            cognitive.extend(rows)
            reactions.append(reaction)
        count = len(contexts)
        empty = torch.full((count, 1), PAD)
        return Batch(
            index=torch.arange(count),
            context=_padded([context.ids for context in contexts]),
            speakers=_padded([context.speakers for context in contexts]),
            emotion=torch.zeros(count, dtype=torch.long),
            cognitive=_padded(cognitive).unflatten(0, (count, 4)),
            reaction=_padded(reactions),
            target=empty,
            target_positions=torch.zeros(0, dtype=torch.long),
            **self._extras(contexts, utterances, inferences),
        )

    def _extras(
        self, contexts: list[EncodedContext], utterances: list[str], inferences: list[Inferences]
    ) -> dict[str, Tensor]:
        """Collate what the model needs beyond CTSM's data, made as `ctsm prepare` makes it."""
        needs = needs_of("test", self.bundle.model.needs)
        known = dict(zip(utterances, inferences, strict=True))
        if "cognition" in needs:
            parts = [part for utterance in utterances for part in sub_utterances(utterance)]
            known |= dict(zip(parts, self.source.infer(parts), strict=True))
        builder = ExtrasBuilder(needs, self.bundle.vocabulary, self.word_knowledge)
        for context, utterance in zip(contexts, utterances, strict=True):
            builder.add(context.ids, utterance, known.__getitem__)
        return collated_extras(builder.build(), np.arange(len(contexts)))

    def _token_emotions(self, encoded: Context, row: int, context: EncodedContext) -> tuple[TokenEmotions, ...]:
        """Read one example's maps, CLS left out."""
        perception = encoded.perception
        if perception is None:
            return ()
        length = len(context.ids)
        words = self.bundle.vocabulary.words_of(context.ids[1:], context.oov)
        trait, known, inclination, state, intensity = (
            values[row, 1:length].float().cpu().tolist() for values in perception[:5]
        )
        shares = None if perception.attention is None else perception.attention[row, 1:length].float().cpu().tolist()
        return tuple(
            TokenEmotions(
                token=word,
                role="listener" if context.speakers[position + 1] == SYS else "speaker",
                in_lexicon=bool(known[position]),
                trait=tuple(trait[position]) if known[position] else None,
                inclination=tuple(inclination[position]),
                state=tuple(state[position]),
                intensity=intensity[position],
                attention=None if shares is None else shares[position],
            )
            for position, word in enumerate(words)
        )


@lru_cache(maxsize=1 << 14)
def _phrase_words(phrase: str) -> tuple[str, ...]:
    """Tokenise an inferred phrase: new utterances get the phrases of earlier ones again and again."""
    return tuple(tokenise(phrase))


def _probabilities(encoded: Context, row: int) -> dict[str, float]:
    """Return the probabilities of the emotions for one context, by name; none without an emotion head."""
    if encoded.emotion_logits is None:
        return {}
    return dict(zip(EMOTIONS, torch.softmax(encoded.emotion_logits[row].float(), dim=-1).tolist(), strict=True))


def check_conversation(turns: Sequence[str], place: str = "") -> None:
    """Refuse a conversation that cannot be answered; `place` begins the message.

    Raises:
        CtsmError: there is no turn, the last one is the listener's, or one has no words.
    """
    if not turns:
        raise CtsmError(f"{place}the conversation is empty; give at least one turn.")
    if len(turns) % 2 == 0:
        raise CtsmError(f"{place}the last of {len(turns)} turns is the listener's; add the speaker's turn.")
    for number, turn in enumerate(turns, start=1):
        if is_blank(turn):
            raise CtsmError(f"{place}turn {number} of the conversation holds no words; write something there.")


def _keep_last(context: EncodedContext) -> EncodedContext:
    """Cut a context to MAX_CONTEXT tokens: CLS and the most recent words."""
    if len(context.ids) <= MAX_CONTEXT:
        return context
    first = len(context.ids) - (MAX_CONTEXT - 1)
    return EncodedContext([CLS, *context.ids[first:]], [CLS, *context.speakers[first:]], context.oov)


def _padded(rows: list[list[int]]) -> Tensor:
    ragged = Ragged.from_rows(rows)
    return torch.from_numpy(ragged.padded(np.arange(len(rows)), PAD))
