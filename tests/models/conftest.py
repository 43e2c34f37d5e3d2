"""Builders of small models and batches, and CTSM written out once more in NumPy.

`Reference` is the specification without batches: one example at a time, no padding, no mask, loops over positions,
double precision. It reads a model's parameters by name and shares no code with it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctsm.corpus.batches import Batch
from ctsm.models.base import EmpatheticModel, WordTables
from ctsm.models.ctsm import CTSM, CTSMOptions

Array = NDArray[np.float64]
Model = TypeVar("Model", bound=EmpatheticModel)
V = 50
PAD, EOS, SOS, USR, SYS, CLS = 1, 2, 3, 4, 5, 6
FIRST_WORD = 7
PAGES = Path(__file__).parents[2] / "docs" / "models"
LABELS = [FIRST_WORD + 9 + index for index in range(32)]  # ids 16 ... 47


@dataclass(frozen=True)
class Example:
    context: list[int]
    speakers: list[int]
    emotion: int
    cognitive: list[list[int]]
    reaction: list[int]
    target: list[int]


def make_example(seed: int, words: int = 6, target_words: int = 4, reactions: int = 3, unknown: int = 1) -> Example:
    """A random example: `words` context words of which the last `unknown` are not in the vocabulary."""
    random = np.random.default_rng(seed)
    known = random.integers(FIRST_WORD, V, size=max(words - unknown, 0)).tolist()
    context = [*known, *(V + place for place in range(min(unknown, words)))]
    if len(context) > 2:
        context[2] = context[0]  # a repeated word
    turn = random.integers(1, words + 1) if words else 0
    source = context if context else [FIRST_WORD]
    target = [
        int(random.choice(source) if random.random() < 0.4 else random.integers(FIRST_WORD, V))
        for _ in range(target_words)
    ]
    if target and unknown and words:
        target[-1] = context[-1]  # a word that can only be copied
    return Example(
        context=[CLS, *context],
        speakers=[CLS, *([USR] * int(turn)), *([SYS] * int(words - turn))],
        emotion=int(random.integers(32)),
        cognitive=[[CLS, *random.integers(FIRST_WORD, V, size=int(random.integers(0, 5))).tolist()] for _ in range(4)],
        reaction=random.integers(FIRST_WORD, V, size=reactions).tolist(),
        target=[*target, EOS],
    )


def collate(examples: list[Example], padding: int = 0) -> Batch:
    """Pad on the right; `padding` adds that many columns to every field."""

    def rectangle(rows: list[list[int]]) -> Tensor:
        width = max(1, *(len(row) for row in rows)) + padding
        return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])

    target = rectangle([example.target for example in examples])
    return Batch(
        index=torch.arange(len(examples)),
        context=rectangle([example.context for example in examples]),
        speakers=rectangle([example.speakers for example in examples]),
        emotion=torch.tensor([example.emotion for example in examples]),
        cognitive=rectangle([row for example in examples for row in example.cognitive]).unflatten(0, (-1, 4)),
        reaction=rectangle([example.reaction for example in examples]),
        target=target,
        target_positions=torch.tensor([i for i, word in enumerate(target.flatten().tolist()) if word != PAD]),
    )


def make_options(**changes: Any) -> CTSMOptions:
    small = {"size": 12, "layers": 1, "heads": 2, "depth": 8, "filter_size": 5, "semantic_size": 4, "fusion_size": 14}
    return CTSMOptions(**{**small, **changes})


def make_tables(size: int, seed: int = 0, vocabulary: int = V) -> WordTables:
    """Random vectors and lexicon values; about half of the words are in the lexicon."""
    generator = torch.Generator().manual_seed(seed)
    in_lexicon = torch.rand(vocabulary, generator=generator) < 0.5
    in_lexicon[:FIRST_WORD] = False
    return WordTables(
        vectors=torch.randn(vocabulary, size, generator=generator) * 0.3,
        vad=torch.rand(vocabulary, 3, generator=generator),
        in_lexicon=in_lexicon,
        idf=torch.rand(vocabulary, generator=generator),
        intensity=torch.rand(vocabulary, generator=generator) * in_lexicon,
        labels=torch.tensor(LABELS),
    )


def make_system(
    system: Callable[[Any, int], Model],
    options: Any,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **tables: Tensor,
) -> Model:
    """An installed model in evaluation mode whose norms and biases are neither 1 nor 0; `tables` adds to its tables."""
    torch.manual_seed(seed)
    model = system(options, V)
    model.install(replace(make_tables(options.size, seed), **tables))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.4, std=0.4)
    return model.to(dtype).eval()


def make_model(options: CTSMOptions | None = None, seed: int = 0, dtype: torch.dtype = torch.float64) -> CTSM:
    return make_system(CTSM, options or make_options(), seed, dtype)


def printed_parameters(name: str) -> tuple[dict[str, int], str]:
    """Number of parameters by module in a page of docs/models, and the section that says so."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    section = text[text.index("## Parameters") : text.index("## What is faithful")]
    rows = re.findall(r"^\| (`.*) \| ([\d,]+)(?: each)? \|$", section, re.MULTILINE)
    return {
        module: int(number.replace(",", "")) for cell, number in rows for module in re.findall(r"`([\w.]+)`", cell)
    }, section


def counted_parameters(
    system: Callable[[Any, int], EmpatheticModel],
    options: Any,
    module_of: Callable[[str], str] = lambda name: name.split(".")[0],
) -> dict[str, int]:
    """Number of parameters by module of a model with the 23,713 words that papers count with."""
    with torch.device("meta"):
        model = system(options, 23_713)
    counted = Counter[str]()
    for name, parameter in model.named_parameters():
        counted[module_of(name)] += parameter.numel()
    return dict(counted)


@contextmanager
def captured(model: nn.Module, *names: str) -> Iterator[dict[str, tuple[Any, Any]]]:
    """Collect (arguments, output) of the named submodules while a block runs."""
    store: dict[str, tuple[Any, Any]] = {}

    def hook(name: str) -> Any:
        return lambda _module, arguments, output: store.update({name: (arguments, output)})

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield store
    finally:
        for handle in handles:
            handle.remove()


class Reference:
    """CTSM's equations for one unpadded example; its blocks are those of every model."""

    def __init__(self, model: EmpatheticModel) -> None:
        self.values = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
        self.options = model.options
        self.labels = LABELS

    def linear(self, name: str, x: Array) -> Array:
        y = x @ self.values[f"{name}.weight"].T
        return y + self.values[f"{name}.bias"] if f"{name}.bias" in self.values else y

    def norm(self, name: str, x: Array) -> Array:
        """Biased variance, 1e-5 inside the root."""
        rows = [(row - row.mean()) / math.sqrt(((row - row.mean()) ** 2).mean() + 1e-5) for row in x]
        return np.array(rows) * self.values[f"{name}.weight"] + self.values[f"{name}.bias"]

    @staticmethod
    def softmax(x: Array) -> Array:
        powers = np.exp(x - x.max())
        return powers / powers.sum()

    @staticmethod
    def smoothed_loss(words: Array, target: list[int], smoothing: float) -> float:
        """Sum over tokens of the cross-entropy of probabilities [T, V] with label-smoothed targets; none on PAD."""
        total = 0.0
        for row, gold in zip(words, target, strict=True):
            for word in range(len(row)):
                share = 1 - smoothing if word == gold else 0.0 if word == PAD else smoothing / (len(row) - 2)
                total -= share * math.log(row[word])
        return total

    @staticmethod
    def positions(length: int, size: int) -> Array:
        half = size // 2
        signal = np.zeros((length, size))
        for position in range(length):
            for index in range(half):
                angle = position / 10_000.0 ** (index / (half - 1))
                signal[position, index], signal[position, half + index] = math.sin(angle), math.cos(angle)
        return signal

    def embed(self, words: list[int]) -> Array:
        """Rows times sqrt(d); words the vocabulary lacks are UNK."""
        table = self.values["embedding.weight"]
        rows = [table[word if word < V else 0] for word in words]
        return np.array(rows).reshape(-1, self.options.size) * math.sqrt(self.options.size)

    def attend(self, name: str, x: Array, memory: Array, causal: bool = False) -> tuple[Array, Array]:
        """Outputs, and scores before the softmax averaged over heads."""
        queries, keys, values = (
            self.linear(f"{name}.{part}", source) for part, source in (("query", x), ("key", memory), ("value", memory))
        )
        width = self.options.depth // self.options.heads
        mixed, scores = np.zeros_like(queries), np.zeros((len(x), len(memory)))
        for t in range(len(x)):
            seen = t + 1 if causal else len(memory)
            for head in range(self.options.heads):
                part = slice(head * width, (head + 1) * width)
                raw = np.array([queries[t, part] @ keys[s, part] for s in range(seen)]) / math.sqrt(width)
                scores[t, :seen] += raw / self.options.heads
                mixed[t, part] = sum(a * values[s, part] for s, a in enumerate(self.softmax(raw)))
        return self.linear(f"{name}.output", mixed), scores

    def feed_forward(self, name: str, x: Array, offsets: tuple[int, int, int]) -> Array:
        """Two width-3 convolutions, a ReLU after each; tap k reads position t + offsets[k], zero outside."""
        for part in ("widen", "narrow"):
            weight, bias = self.values[f"{name}.{part}.weight"], self.values[f"{name}.{part}.bias"]
            rows = []
            for t in range(len(x)):
                inside = [(k, t + offset) for k, offset in enumerate(offsets) if 0 <= t + offset < len(x)]
                rows.append(np.maximum(bias + sum(weight[:, :, k] @ x[s] for k, s in inside), 0.0))
            x = np.array(rows)
        return x

    def encoder(self, name: str, x: Array, positions: bool = True) -> Array:
        x = self.linear(f"{name}.projection", x)
        if positions:
            x = x + self.positions(*x.shape)
        for index in range(self.options.layers):
            layer = f"{name}.layers.{index}"
            normed = self.norm(f"{layer}.attention_norm", x)
            x = x + self.attend(f"{layer}.attention", normed, normed)[0]
            x = x + self.feed_forward(f"{layer}.feed_forward", self.norm(f"{layer}.feed_forward_norm", x), (-1, 0, 1))
        return self.norm(f"{name}.norm", x)

    def decoder(self, words: list[int], memory: Array, start: Array | None = None) -> tuple[Array, Array]:
        """States [T, D] that predict each word and the one after, and scores to copy by [T, S].

        A vector `start` [D] goes before the words.
        """
        x = self.embed(words)
        x = self.linear("decoder.projection", x if start is None else np.concatenate([start[None], x]))
        x = x + self.positions(*x.shape)
        scores = np.zeros(0)
        for index in range(self.options.layers):
            layer = f"decoder.layers.{index}"
            normed = self.norm(f"{layer}.self_norm", x)
            x = x + self.attend(f"{layer}.self_attention", normed, normed, causal=True)[0]
            mixed, scores = self.attend(f"{layer}.cross_attention", self.norm(f"{layer}.cross_norm", x), memory)
            x = x + mixed
            x = x + self.feed_forward(f"{layer}.feed_forward", self.norm(f"{layer}.feed_forward_norm", x), (-2, -1, 0))
        return self.norm("decoder.norm", x), scores

    def fusion(self, name: str, context: Array, knowledge: list[Array]) -> Array:
        refined = []
        for relation, vector in enumerate(knowledge):
            both = np.array([np.concatenate([row, vector]) for row in context])
            refined.append(self.encoder(f"{name}.{'cognitive' if relation < 4 else 'affective'}.encoder", both))
        z = np.concatenate(refined, axis=1)
        gated = z / (1 + np.exp(-z))
        return self.linear(f"{name}.mlp.2", np.maximum(self.linear(f"{name}.mlp.0", gated), 0.0))

    def head(self, name: str, x: Array, intensity: Array) -> Array:
        """Logits [E]: eqs. 11-14 in the reading that `emotion_pool` names."""
        share = self.softmax(intensity)
        if self.options.emotion_pool == "attention":
            c = x * (share * len(x))[:, None]
            s = self.softmax(self.linear(f"{name}.attention", np.tanh(self.linear(f"{name}.inner", c)))[:, 0])
            pooled = sum(s[t] * c[t] for t in range(len(x)))
        else:
            pooled = sum(share[t] * x[t] for t in range(len(x)))
        if self.options.emotion_pool == "sum_gate":
            gate = self.linear(f"{name}.attention", np.tanh(self.linear(f"{name}.inner", pooled)))
            pooled = pooled * self.softmax(gate)
        return self.linear(f"{name}.output", np.tanh(self.linear(f"{name}.hidden", pooled)))

    def cosines(self, words: Array) -> Array:
        """Eqs. 5-7 [S, E]."""
        anchors, mapped = self.linear("label_map", self.embed(self.labels)), self.linear("word_map", words)
        return np.array([[w @ a / math.sqrt((w @ w) * (a @ a)) for a in anchors] for w in mapped])

    def run(self, example: Example) -> SimpleNamespace:
        """Everything up to the decoder states."""
        words = self.embed(example.context) + self.embed(example.speakers)
        e_c = words + self.positions(*words.shape)
        h_c = self.encoder("context_encoder", e_c, positions=False)
        knowledge = [self.encoder("cognitive_encoder", self.embed(row))[0] for row in example.cognitive]
        if example.reaction:
            knowledge.append(self.encoder("affective_encoder", self.embed(example.reaction)).mean(axis=0))
        else:
            knowledge.append(np.zeros(self.options.size))
        features = np.array([self.values["word_features"][word if word < V else 0] for word in example.context])
        condensed = self.linear("condense", h_c)
        v_t = np.concatenate([features[:, :3], features[:, 3:4], condensed], axis=1)
        v_cos = self.cosines(e_c)
        v_s = np.concatenate([v_cos, features[:, 3:4], condensed], axis=1)
        h_t, h_s = self.encoder("trait_encoder", v_t), self.encoder("state_encoder", v_s)
        teacher, student = (self.fusion(f"{name}_fusion", h_c, knowledge) for name in ("teacher", "student"))
        v_tchr, v_stu = np.concatenate([teacher, v_t, v_s], axis=1), np.concatenate([student, h_t, h_s], axis=1)
        memory = student if self.options.decoder_memory == "stu" else v_stu
        hidden, scores = self.decoder([SOS, *example.target[:-1]], memory)
        return SimpleNamespace(
            e_c=e_c, h_c=h_c, knowledge=np.array(knowledge), v_t=v_t, v_cos=v_cos, v_s=v_s, h_t=h_t, h_s=h_s,
            teacher=teacher, student=student, v_tchr=v_tchr, v_stu=v_stu, memory=memory, hidden=hidden, scores=scores,
            intensity=features[:, 4],
            teacher_logits=self.head("teacher_head", v_tchr, features[:, 4]),
            student_logits=self.head("student_head", v_stu, features[:, 4]),
            h_y=self.encoder("reply_encoder", self.embed(example.target)),
            mixture=np.array([self.mixture(example, h, a) for h, a in zip(hidden, scores, strict=True)]),
        )  # fmt: skip

    def mixture(self, example: Example, hidden: Array, scores: Array) -> Array:
        """The pointer generator's distribution over V words and the context's unknown ones."""
        distribution = np.zeros(V + 8)
        places = [s for s, word in enumerate(example.context) if word not in (PAD, CLS)]
        generate = 1 / (1 + math.exp(-float(self.linear("generator.gate", hidden)[0]))) if places else 1.0
        distribution[:V] = generate * self.softmax(self.linear("generator.vocabulary", hidden))
        if places:
            for place, share in zip(places, self.softmax(scores[places]), strict=True):
                distribution[example.context[place]] += (1 - generate) * share
        return distribution


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """The builders, and what counts parameters."""
    return SimpleNamespace(
        example=make_example, batch=collate, options=make_options, tables=make_tables, model=make_model,
        system=make_system, captured=captured, reference=Reference, labels=LABELS, vocabulary=V,
        printed=printed_parameters, counted=counted_parameters,
    )  # fmt: skip
