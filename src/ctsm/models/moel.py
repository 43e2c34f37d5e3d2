"""MoEL: Mixture of Empathetic Listeners (Lin et al., EMNLP-IJCNLP 2019).

Sections are those of the paper. docs/models/moel.md says where this differs from the published code.

Axes: B batch, S source positions (CLS first), T target positions (EOS last), D hidden (300), E emotions and listeners
(32), K active listeners of an example (5), H heads, N packed target tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.corpus.batches import Batch
from ctsm.models.base import (
    Context,
    DecoderStep,
    EmpatheticModel,
    Losses,
    WordTables,
    packed_targets,
    target_mean,
    target_sum,
    xavier_initialise,
)
from ctsm.nn.convolution import WIDTH
from ctsm.nn.decoder import DecoderCache, DecoderLayer, LayerCache
from ctsm.nn.encoder import BlockSizes, Encoder
from ctsm.nn.generator import PlainGenerator, no_source
from ctsm.nn.masking import MASKED, attention_bias
from ctsm.nn.positions import Positions
from ctsm.nn.precision import Linear
from ctsm.nn.top_k import top_k
from ctsm.options import check_options
from ctsm.text.vocabulary import PAD, SOS

EMOTIONS = 32
ORACLE_FLOOR = 0.0001

FEW_POSITIONS = 4
"""Up to so many positions, multiplying with every listener's weights is cheaper than copying those of the active."""


@dataclass(frozen=True)
class MoELOptions:
    """Sizes, training loss, schedule and one fault of the published code.

    Attributes:
        size: width of embeddings and hidden states.
        layers: layers of the encoder and of the meta listener.
        heads: attention heads.
        depth: width of queries, keys and values over all heads.
        filter_size: inner width of the convolutional feed-forward networks.
        active_listeners: listeners with the highest scores that take part in a reply.
        oracle_steps: steps after which the oracle's probability in training has fallen to 1/e.
        label_smoothing: share of the training target's probability that is spread over the other words.
        emotion_weight: weight of the emotion loss.
        gold_gate: choose the listener by the gold emotion in evaluation too, as the published code at times does.
    """

    size: int = 300
    layers: int = 1
    heads: int = 2
    depth: int = 40
    filter_size: int = 50
    active_listeners: int = 5
    oracle_steps: int = 10_000
    label_smoothing: float = 0.1
    emotion_weight: float = 1.0
    gold_gate: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot be built or make no sense."""
        check_options(self, "options")
        for name in ("size", "layers", "heads", "depth", "filter_size", "active_listeners", "oracle_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must be at least 1")
        if self.depth % self.heads:
            raise ValueError(f"options.depth ({self.depth}) must be a multiple of options.heads ({self.heads})")
        if self.active_listeners > EMOTIONS:
            raise ValueError(f"options.active_listeners is {self.active_listeners}; there are {EMOTIONS} listeners")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"options.label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if self.emotion_weight < 0:
            raise ValueError(f"options.emotion_weight is {self.emotion_weight}; it must not be negative")


class Gate(NamedTuple):
    """The active listeners of each example, all different [B, K], and their weights [B, K], which sum to 1."""

    listeners: Tensor
    weights: Tensor

    @classmethod
    def by_scores(cls, logits_BE: Tensor, count: int) -> Gate:
        """Take the listeners with the highest scores, weighted by the softmax over them (section 3.3)."""
        scores_BK, listeners_BK = top_k(logits_BE, count)
        return cls(listeners_BK, torch.softmax(scores_BK, dim=-1))

    @classmethod
    def by_emotion(cls, emotion_B: Tensor, count: int) -> Gate:
        """Give the emotion's own listener weight 1; the others take part with weight 0."""
        places_K = torch.arange(count, device=emotion_B.device)
        listeners_BK = (emotion_B[:, None] + places_K) % EMOTIONS
        return cls(listeners_BK, (places_K == 0).float().expand(listeners_BK.shape))

    def rows(self, index: Tensor) -> Gate:
        """Select or repeat rows."""
        return Gate(self.listeners[index], self.weights[index])


@dataclass(frozen=True, kw_only=True)
class MoELContext(Context):
    """A context with the listeners that it calls for."""

    gate: Gate


@dataclass(kw_only=True)
class MoELCache(DecoderCache):
    """The layers' caches: shared listener, emotion listeners (with K after B on their axes), meta listener."""

    gate: Gate

    def select(self, rows: Tensor) -> MoELCache:
        """Keep only some replies of the batch."""
        return MoELCache(
            memory_bias=self.memory_bias[rows],
            layers=[layer.select(rows) for layer in self.layers],
            length=self.length,
            gate=self.gate.rows(rows),
        )


class ListenerLinear(nn.Module):
    """One linear map for each listener, applied to the active ones of each example.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        fans: sum of the map's fan-in and fan-out, for its initial values; a convolution's count every tap.
    """

    def __init__(self, inputs: int, outputs: int, fans: int) -> None:
        super().__init__()
        self.fans = fans
        self.weight = nn.Parameter(torch.empty(EMOTIONS, outputs, inputs))

    def initialise(self) -> None:
        """Xavier-uniform values for each listener's own matrix."""
        bound = math.sqrt(6.0 / self.fans)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x_BKTI: Tensor, listeners_BK: Tensor) -> Tensor:
        """Map [B, K, T, inputs] to [B, K, T, outputs] with the weights of listener [B, K].

        Either the active listeners' weights are copied, once for each example, or the inputs are laid out by listener,
        with zeros where one is not active; the results are the same.
        """
        rows, active, steps, inputs = x_BKTI.shape
        if steps > FEW_POSITIONS or rows * active <= EMOTIONS:
            weights_POI = self.weight[listeners_BK.flatten()]
            return torch.bmm(x_BKTI.flatten(0, 1), weights_POI.transpose(1, 2)).unflatten(0, (rows, active))
        row_B1 = torch.arange(rows, device=x_BKTI.device)[:, None]
        laid_out_EBTI = x_BKTI.new_zeros(EMOTIONS, rows, steps, inputs).index_put((listeners_BK, row_B1), x_BKTI)
        mapped = torch.bmm(laid_out_EBTI.flatten(1, 2), self.weight.transpose(1, 2))
        return mapped.unflatten(1, (rows, steps))[listeners_BK, row_B1]


class ListenerVectors(nn.Module):
    """One vector for each listener (a bias or a norm's scale), as [B, K, 1, size] of the active ones."""

    def __init__(self, size: int, value: float) -> None:
        super().__init__()
        self.value = value
        self.weight = nn.Parameter(torch.empty(EMOTIONS, size))

    def initialise(self) -> None:
        """Start with the same value everywhere."""
        nn.init.constant_(self.weight, self.value)

    def forward(self, listeners_BK: Tensor) -> Tensor:
        """Select the vectors of listeners [B, K]."""
        return self.weight[listeners_BK].unsqueeze(2)


class ListenerNorm(nn.Module):
    """A layer norm with each listener's own scale and shift."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = ListenerVectors(size, 1.0)
        self.shift = ListenerVectors(size, 0.0)

    def forward(self, x_BKTD: Tensor, listeners_BK: Tensor) -> Tensor:
        """Normalise [B, K, T, D]."""
        normed = F.layer_norm(x_BKTD, x_BKTD.shape[-1:])
        return normed * self.scale(listeners_BK) + self.shift(listeners_BK)


class ListenerAttention(nn.Module):
    """Multi-head attention with each listener's own maps (see `nn.attention`)."""

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.query, self.key, self.value = (ListenerLinear(size, sizes.depth, size + sizes.depth) for _ in range(3))
        self.output = ListenerLinear(sizes.depth, size, size + sizes.depth)

    def keys_values(self, memory_BKSD: Tensor, listeners_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Project what is attended to: keys and values [B, K, H, S, depth / H]."""
        return self._split(self.key(memory_BKSD, listeners_BK)), self._split(self.value(memory_BKSD, listeners_BK))

    def forward(
        self, x_BKTD: Tensor, listeners_BK: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Attend from x [B, K, T, D] to keys and values; `bias` [B or 1, 1, T or 1, S] is added to the scores."""
        queries = self._split(self.query(x_BKTD, listeners_BK))
        if bias is not None and bias.shape[0] > 1:
            bias = bias.repeat_interleave(listeners_BK.shape[1], dim=0)
        mixed = F.scaled_dot_product_attention(
            queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), attn_mask=bias
        )
        joined_BKTF = mixed.transpose(1, 2).flatten(2).unflatten(0, listeners_BK.shape)
        return self.output(joined_BKTF, listeners_BK)

    def _split(self, x_BKTF: Tensor) -> Tensor:
        return x_BKTF.unflatten(-1, (self.heads, -1)).transpose(2, 3)


class Listeners(nn.Module):
    """The emotion listeners: 32 layers like `nn.decoder.DecoderLayer`, of which the active ones run as one batch."""

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__()
        convolution_fans = WIDTH * (size + sizes.filter_size)
        self.self_norm = ListenerNorm(size)
        self.self_attention = ListenerAttention(size, sizes)
        self.cross_norm = ListenerNorm(size)
        self.cross_attention = ListenerAttention(size, sizes)
        self.feed_forward_norm = ListenerNorm(size)
        # Two causal width-3 convolutions as in `nn.convolution`; the first one's taps are rows, the second's columns.
        self.widen = ListenerLinear(size, WIDTH * sizes.filter_size, convolution_fans)
        self.widen_bias = ListenerVectors(sizes.filter_size, 0.0)
        self.narrow = ListenerLinear(WIDTH * sizes.filter_size, size, convolution_fans)
        self.narrow_bias = ListenerVectors(size, 0.0)

    def initialise(self) -> None:
        """Give each listener the initial values that it would have as a layer of its own."""
        for module in self.modules():
            if isinstance(module, ListenerLinear | ListenerVectors):
                module.initialise()

    def start(self, memory_BSD: Tensor, gate: Gate) -> LayerCache:
        """Project the memory's keys and values for the active listeners."""
        memory_BKSD = memory_BSD[:, None].expand(-1, gate.listeners.shape[1], -1, -1)
        return LayerCache(self.cross_attention.keys_values(memory_BKSD, gate.listeners))

    def forward(
        self, x_BTD: Tensor, gate: Gate, cache: LayerCache, causal_bias: Tensor | None, memory_bias: Tensor
    ) -> Tensor:
        """Advance by T positions, updating `cache`; returns the listeners' outputs weighted by the gate [B, T, D]."""
        active = gate.listeners
        x_BKTD = x_BTD[:, None].expand(-1, active.shape[1], -1, -1)
        normed = self.self_norm(x_BKTD, active)
        keys, values = self.self_attention.keys_values(normed, active)
        if cache.self_attention is not None:
            keys = torch.cat([cache.self_attention[0], keys], dim=3)
            values = torch.cat([cache.self_attention[1], values], dim=3)
        cache.self_attention = (keys, values)
        bias = None if causal_bias is None else causal_bias[None, None]
        x_BKTD = x_BKTD + self.self_attention(normed, active, keys, values, bias)
        x_BKTD = x_BKTD + self.cross_attention(self.cross_norm(x_BKTD, active), active, *cache.memory, memory_bias)
        x_BKTD = x_BKTD + self._feed_forward(self.feed_forward_norm(x_BKTD, active), active, cache)
        return torch.einsum("bk,bktd->btd", gate.weights.to(x_BKTD.dtype), x_BKTD)

    def _feed_forward(self, x_BKTD: Tensor, active: Tensor, cache: LayerCache) -> Tensor:
        """ReLU(conv(ReLU(conv(x)))), causal; the last two inputs of each convolution go into the cache."""
        steps = x_BKTD.shape[2]
        before = cache.convolutions or (None, None)
        inputs = _after(before[0], x_BKTD)
        taps = self.widen(inputs, active).chunk(WIDTH, dim=-1)
        summed = sum(tap[:, :, place : place + steps] for place, tap in enumerate(taps))
        hidden = F.relu(summed + self.widen_bias(active))
        windows_from = _after(before[1], hidden)
        windows = torch.cat([windows_from[:, :, place : place + steps] for place in range(WIDTH)], dim=-1)
        cache.convolutions = (inputs[:, :, steps:], windows_from[:, :, steps:])
        return F.relu(self.narrow(windows, active) + self.narrow_bias(active))


def _after(previous: Tensor | None, x_BKTC: Tensor) -> Tensor:
    """Put the two positions before in front: zeros at the start."""
    if previous is None:
        return F.pad(x_BKTC, (0, 0, WIDTH - 1, 0))
    return torch.cat([previous, x_BKTC], dim=2)


class ListenerDecoder(nn.Module):
    """Sections 3.3 and 3.4: shared listener, emotion listeners and the meta listener that fuses them."""

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.projection = Linear(size, size, bias=False)
        self.positions = Positions(size)
        self.shared = DecoderLayer(size, size, sizes)
        self.listeners = Listeners(size, sizes)
        self.meta = nn.ModuleList(DecoderLayer(size, size, sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(size)

    def start(self, memory_BSD: Tensor, real_BS: Tensor, gate: Gate) -> MoELCache:
        """Prepare a cache: project the memory's keys and values once, no position decoded yet."""
        shared, *meta = (
            LayerCache(layer.cross_attention.keys_values(memory_BSD))
            for layer in (self.shared, *self.meta)
            if isinstance(layer, DecoderLayer)
        )
        layers = [shared, self.listeners.start(memory_BSD, gate), *meta]
        bias = attention_bias(real_BS)[:, None, None, :].to(memory_BSD.dtype)
        return MoELCache(memory_bias=bias, layers=layers, gate=gate)

    def forward(self, x_BTD: Tensor, cache: MoELCache) -> DecoderStep:
        """Decode T further positions, updating `cache` in place (see `nn.decoder.Decoder`)."""
        steps, done = x_BTD.shape[1], cache.length
        x_BTD = self.positions(self.projection(x_BTD), first=done)
        causal_bias = x_BTD.new_full((steps, done + steps), MASKED).triu(done + 1) if steps > 1 else None
        shared, listeners, *meta = cache.layers
        shared_BTD, copy_scores = self.shared(x_BTD, shared, causal_bias, cache.memory_bias)
        x_BTD = shared_BTD + self.listeners(x_BTD, cache.gate, listeners, causal_bias, cache.memory_bias)
        for layer, layer_cache in zip(self.meta, meta, strict=True):
            x_BTD, copy_scores = layer(x_BTD, layer_cache, causal_bias, cache.memory_bias)
        cache.length = done + steps
        return DecoderStep(self.norm(x_BTD), copy_scores)


class MoEL(EmpatheticModel):
    """The model; `install` gives it word vectors.

    Args:
        options: sizes and switches.
        vocabulary_size: V.
    """

    name = "moel"
    generator: PlainGenerator
    oracle: Tensor

    def __init__(self, options: MoELOptions, vocabulary_size: int) -> None:
        super().__init__(options, vocabulary_size)
        size = options.size
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        self.emotion_tracker = Encoder(size, size, sizes)
        self.listener_keys = Linear(size, EMOTIONS, bias=False)
        self.decoder = ListenerDecoder(size, sizes)
        self.generator = PlainGenerator(size, vocabulary_size)
        self.register_buffer("oracle", torch.ones((), device="cpu"), persistent=False)
        xavier_initialise(self)
        self.decoder.listeners.initialise()

    def install(self, tables: WordTables) -> None:
        """Fill the embedding."""
        with torch.no_grad():
            self.embedding.weight.copy_(tables.vectors)
            self.embedding.weight[PAD].zero_()

    def encode(self, batch: Batch, perceive: bool = False) -> MoELContext:  # noqa: ARG002 - there are no maps to show
        """Track the emotion and choose the listeners (sections 3.1-3.3); the option `gold_gate` reads the label."""
        options: MoELOptions = self.options
        start = batch.context.new_full((len(batch), 1), SOS)
        context = self._encode(batch, *self._look_up(batch.context, batch.speakers, start))
        if options.gold_gate:
            return replace(context, gate=Gate.by_emotion(batch.emotion, options.active_listeners))
        return context

    def start_decoding(self, context: Context) -> MoELCache:
        """Project the memory's keys and values once."""
        assert isinstance(context, MoELContext)
        return self.decoder.start(context.memory, context.real, context.gate)

    def decode(self, words: Tensor, context: Context, cache: DecoderCache) -> DecoderStep:
        """Advance the decoder; see the base class."""
        assert isinstance(cache, MoELCache)
        (inputs_BTD,) = self._look_up(words)
        if cache.length == 0:
            inputs_BTD = torch.cat([context.start[:, None], inputs_BTD], dim=1)
        step: DecoderStep = self.decoder(inputs_BTD, cache)
        return step

    def loss(self, batch: Batch) -> Losses:
        """Label-smoothed loss, summed over the batch's tokens, plus the mean cross-entropy of the emotion (3.4).

        In training mode a random draw decides for the whole batch whether the oracle, the gold emotion's own listener,
        replies; its probability falls with the step.
        """
        options: MoELOptions = self.options
        start = batch.context.new_full((len(batch), 1), SOS)
        looked_up = self._look_up(batch.context, batch.speakers, start, batch.target)
        words_BSD, speakers_BSD, start_B1D, target_BTD = looked_up
        context = self._encode(batch, words_BSD, speakers_BSD, start_B1D)
        gate = self._with_oracle(context.gate, batch.emotion) if self.training else context.gate
        cache = self.decoder.start(context.memory, context.real, gate)
        hidden_BTD, _ = self.decoder(torch.cat([start_B1D, target_BTD[:, :-1]], dim=1), cache)
        _, target_N = packed_targets(batch)
        hidden_ND = hidden_BTD.flatten(0, 1)[batch.target_positions]
        smoothed = self.generator.smoothed(hidden_ND, target_N, options.label_smoothing)
        assert context.emotion_logits is not None
        emotion = F.cross_entropy(context.emotion_logits, batch.emotion)
        total = target_sum(smoothed.loss, target_N) + options.emotion_weight * emotion
        return Losses(total, {"generation": target_mean(smoothed.nll, target_N), "emotion": emotion})

    def schedule(self) -> str:
        """Put the oracle's probability where the model computes; its steps have no phases."""
        self.oracle.fill_(self.oracle_probability())
        return ""

    def oracle_probability(self) -> float:
        """Probability that the gold emotion chooses the listener in the training step `step`."""
        return ORACLE_FLOOR + (1.0 - ORACLE_FLOOR) * math.exp(-self.step / self.options.oracle_steps)

    def _with_oracle(self, gate: Gate, emotion_B: Tensor) -> Gate:
        """Replace the gate by the gold emotion's with the oracle's probability, without waiting for the device."""
        oracle = torch.rand((), device=emotion_B.device) < self.oracle
        gold = Gate.by_emotion(emotion_B, gate.listeners.shape[1])
        return Gate(*(torch.where(oracle, by_gold, chosen) for by_gold, chosen in zip(gold, gate, strict=True)))

    def _encode(self, batch: Batch, words_BSD: Tensor, speakers_BSD: Tensor, start_B1D: Tensor) -> MoELContext:
        memory_BSD = self.emotion_tracker(words_BSD + speakers_BSD, batch.context_real)
        logits_BE = self.listener_keys(memory_BSD[:, 0])
        return MoELContext(
            memory=memory_BSD,
            real=batch.context_real,
            source=no_source(batch.context),
            start=start_B1D[:, 0],
            emotion_logits=logits_BE,
            gate=Gate.by_scores(logits_BE, self.options.active_listeners),
        )

    def _look_up(self, *words: Tensor) -> list[Tensor]:
        """Embed several id tensors in one look-up, scaled by sqrt(d): each [B, T] becomes [B, T, D]."""
        flat = self.known(torch.cat([ids.flatten() for ids in words]))
        vectors = self.embedding(flat) * math.sqrt(self.options.size)
        parts = vectors.split([ids.numel() for ids in words])
        return [part.unflatten(0, ids.shape) for part, ids in zip(parts, words, strict=True)]
