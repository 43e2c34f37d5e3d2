"""CASE against NumPy loops over one unpadded example: both graphs, selection, and what no example may depend on."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctsm.models.case import select

Array = NDArray[np.float64]


def check_rows(actual: Tensor, expected: list[Array]) -> None:
    """Compare the real rows of each example."""
    for row, wanted in zip(actual.detach().numpy(), expected, strict=True):
        np.testing.assert_allclose(row[: len(wanted)], wanted.reshape(-1, row.shape[-1]), rtol=1e-5, atol=2e-5)


def test_both_graphs_are_memories_of_the_decoder_beside_the_fused_context(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    check_rows(context.cognition, [expected.cognition for expected in ran.expected])
    for row, present, expected in zip(context.affection, context.vertices, ran.expected, strict=True):
        check_rows(row[present][None], [expected.affection])  # concepts stand after the padded words
    check_rows(context.memory, [expected.memory for expected in ran.expected])
    assert context.phrases.sum(dim=1).tolist() == [len(expected.cognition) for expected in ran.expected]
    assert context.vertices.sum(dim=1).tolist() == [len(expected.affection) for expected in ran.expected]


def test_emotion_mixes_selected_concepts_with_the_reaction_to_the_whole_utterance(ran: SimpleNamespace) -> None:
    check_rows(ran.model.encode(ran.batch).emotion_logits[:, None], [expected.logits for expected in ran.expected])


def test_decoder_states(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    step = ran.model.decode(ran.batch.target[:, :-1], context, ran.model.start_decoding(context))
    check_rows(step.hidden, [expected.states for expected in ran.expected])


def test_selection_ignores_what_is_not_there_and_takes_nothing_of_nothing() -> None:
    memory = torch.randn(2, 4, 3).double()
    real = torch.tensor([[True, True, False, False], [False] * 4])
    vector, log_weights = select(torch.randn(2, 3).double(), memory, real)
    torch.testing.assert_close(log_weights[0].exp().sum(), torch.tensor(1.0).double())
    assert log_weights[0, 2:].exp().tolist() == [0.0, 0.0]
    torch.testing.assert_close(vector[0], log_weights[0, :2].exp() @ memory[0, :2])
    assert vector[1].tolist() == [0.0] * 3


def test_what_an_example_gets_does_not_depend_on_the_others(case: SimpleNamespace) -> None:
    model, examples = case.model(), case.examples()
    together = model.score(case.batch(examples, padding=1))
    for b, example in enumerate(examples):
        alone = model.score(case.batch([example]))
        torch.testing.assert_close(alone.nll[0], together.nll[b], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(alone.emotion_logits[0], together.emotion_logits[b], rtol=1e-9, atol=1e-9)


def test_encoding_reads_neither_label_nor_reply(case: SimpleNamespace) -> None:
    model, batch = case.model(), case.batch(case.examples())
    nothing: Any = None
    given = model.encode(batch)
    needed = model.encode(replace(batch, emotion=nothing, target=nothing, target_positions=nothing))
    for field in fields(given):
        if isinstance(getattr(given, field.name), Tensor):
            assert torch.equal(getattr(given, field.name), getattr(needed, field.name))


def test_dropout_is_in_the_graphs_and_in_training_only(case: SimpleNamespace) -> None:
    model, batch = case.model(dropout=0.5), case.batch(case.examples())
    assert torch.equal(model.loss(batch).total, model.loss(batch).total)
    model.train()
    first, second = model.encode(batch), model.encode(batch)
    assert not torch.equal(first.cognition, second.cognition)
    assert not torch.equal(first.affection, second.affection)
    dropping = {name.split(".")[0] for name, part in model.named_modules() if isinstance(part, nn.Dropout) and part.p}
    assert dropping == {"cognition_graph", "concept_graph"}
