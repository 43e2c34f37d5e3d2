"""Small random models in float64, and their next-word distributions without caches, batches or torch arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ctsm.corpus.batches import Batch
from ctsm.models.base import Context, WordTables
from ctsm.models.ctsm import CTSM, CTSMOptions
from ctsm.text.vocabulary import CLS, EOS, PAD, SYS, USR

Numbers = npt.NDArray[np.float64]
LogDistribution = Callable[[list[int]], Numbers]


def make_model(vocabulary_size: int, sharpness: float, eos_bias: float, first_label: int = 0) -> CTSM:
    """Larger output weights make the choices decided; with a bias EOS is frequent, so replies of many lengths occur."""
    torch.manual_seed(3)
    built = CTSM(CTSMOptions(size=12, depth=8, filter_size=6, fusion_size=10, semantic_size=3), vocabulary_size)
    generator = torch.Generator().manual_seed(4)
    built.install(
        WordTables(
            vectors=torch.randn(vocabulary_size, 12, generator=generator) * 0.5,
            vad=torch.rand(vocabulary_size, 3, generator=generator),
            in_lexicon=torch.rand(vocabulary_size, generator=generator) < 0.5,
            idf=torch.rand(vocabulary_size, generator=generator),
            intensity=torch.rand(vocabulary_size, generator=generator),
            labels=torch.arange(first_label, first_label + 32) % vocabulary_size,
        )
    )
    with torch.no_grad():
        built.generator.vocabulary.weight.mul_(sharpness)
        built.generator.vocabulary.bias[EOS] = eos_bias
    return built.double().eval()


@pytest.fixture(scope="session")
def small_model() -> Callable[..., CTSM]:
    return make_model


@pytest.fixture(scope="session")
def model() -> CTSM:
    """V = 40; EOS is frequent, so that replies of many lengths occur."""
    return make_model(40, sharpness=3.0, eos_bias=2.0)


@pytest.fixture(scope="session")
def tiny_model() -> CTSM:
    """V = 10: three words, EOS and what the context has, so that all replies can be listed."""
    return make_model(10, sharpness=2.0, eos_bias=0.5)


class Definition:
    """What a model says about the next word, computed the long way."""

    @staticmethod
    def batch(contexts: list[list[int]]) -> Batch:
        """Collate contexts of extended word ids; CLS is put before each."""
        width = max(map(len, contexts)) + 1
        roles = [[USR if place < len(words) // 2 else SYS for place in range(len(words))] for words in contexts]
        count = len(contexts)
        return Batch(
            index=torch.arange(count),
            context=torch.tensor([[CLS, *words] + [PAD] * (width - 1 - len(words)) for words in contexts]),
            speakers=torch.tensor([[CLS, *row] + [PAD] * (width - 1 - len(row)) for row in roles]),
            emotion=torch.zeros(count, dtype=torch.long),
            cognitive=torch.full((count, 4, 2), CLS),
            reaction=torch.full((count, 1), PAD),
            target=torch.full((count, 1), PAD),
            target_positions=torch.zeros(0, dtype=torch.long),
        )

    @classmethod
    def encode(cls, model: CTSM, contexts: list[list[int]]) -> Context:
        with torch.no_grad():
            return model.encode(cls.batch(contexts))

    @classmethod
    def log_distribution(cls, model: CTSM, context: list[int]) -> LogDistribution:
        """Return the function from a prefix of a reply to log p of every extended word that may follow."""
        encoded = cls.encode(model, [context])
        known: dict[tuple[int, ...], Numbers] = {}
        vocabulary, gate = model.generator.vocabulary, model.generator.gate
        size = max([model.vocabulary_size - 1, *context]) + 1

        @torch.no_grad()
        def after(prefix: list[int]) -> Numbers:
            if tuple(prefix) not in known:
                words = torch.tensor([prefix], dtype=torch.long)
                state = model.decode(words, encoded, model.start_decoding(encoded))
                hidden, scores = state.hidden[0, -1].numpy(), state.copy_scores[0, -1].numpy()[1:]
                logits = vocabulary.weight.numpy() @ hidden + vocabulary.bias.numpy()
                generate = 1 / (1 + np.exp(-(gate.weight.numpy()[0] @ hidden + gate.bias.item()))) if context else 1.0
                mixture = np.zeros(size)
                mixture[: len(logits)] = generate * np.exp(logits) / np.exp(logits).sum()
                for word, weight in zip(context, np.exp(scores) / np.exp(scores).sum(), strict=True):
                    mixture[word] += (1 - generate) * weight
                with np.errstate(divide="ignore"):
                    known[tuple(prefix)] = np.log(mixture)
            return known[tuple(prefix)]

        return after

    @staticmethod
    def rules(log_p: Numbers, said: list[int], ngram: int, penalty: float) -> Numbers:
        """The scores after the rules: special words and repetitions, word by word."""
        scores = log_p.copy()
        for word in range(len(scores)):
            if word in (0, 1, 3, 4, 5, 6):
                scores[word] = -np.inf
            elif word in said:
                scores[word] = scores[word] * penalty
            longer = [*said, word]
            if ngram and len(longer) > ngram and word != EOS:
                earlier = [longer[start : start + ngram] for start in range(len(longer) - ngram)]
                if longer[-ngram:] in earlier:
                    scores[word] = -np.inf
        return scores

    @staticmethod
    def total(after: LogDistribution, words: list[int], ended: bool) -> float:
        """log p of a whole reply."""
        steps = [*words, EOS] if ended else words
        return float(sum(after(words[:place])[word] for place, word in enumerate(steps)))


@pytest.fixture(scope="session")
def definition() -> type[Definition]:
    return Definition
