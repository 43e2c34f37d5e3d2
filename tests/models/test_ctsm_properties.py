"""What holds whatever the options say: batch invariance, cached decoding, no leakage, counts that evaluation leaves."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctsm.corpus.batches import Batch
from ctsm.models.base import EmpatheticModel, Scores
from ctsm.models.ctsm import CTSM
from ctsm.nn.pointer import Scored

EOS, PAD, CLS = 2, 1, 6
BANNED = torch.tensor([0, 1, 3, 4, 5, 6])
STEPS = 7
CLOSE = {"rtol": 0.0, "atol": 1e-9}


@pytest.fixture(scope="module", params=["default", "two layers, wide memory", "sum_gate", "sum"])
def model(request: pytest.FixtureRequest, build: SimpleNamespace) -> CTSM:
    changes: dict[str, Any] = {
        "default": {},
        "two layers, wide memory": {"layers": 2, "decoder_memory": "stu+emo"},
        "sum_gate": {"emotion_pool": "sum_gate"},
        "sum": {"emotion_pool": "sum"},
    }[request.param]
    made: CTSM = build.model(build.options(**changes), seed=2)
    return made


def varied(build: SimpleNamespace, count: int, seed: int) -> list[Any]:
    """Examples of all lengths, among them CLS alone, no reaction words and a reply of EOS alone."""
    return [
        build.example(
            1000 * seed + i,
            words=(5 * i + seed) % 12,
            target_words=(3 * i + seed) % 8,
            reactions=(i + seed) % 5,
            unknown=i % 3,
        )
        for i in range(count)
    ]


@torch.no_grad()
def greedy(model: EmpatheticModel, batch: Batch) -> Tensor:
    """The most probable words, step by step [B, STEPS]; PAD after EOS."""
    context = model.encode(batch)
    cache = model.start_decoding(context)
    words = batch.context.new_empty(len(batch), 0)
    reply = batch.context.new_full((len(batch), STEPS), PAD)
    done = torch.zeros(len(batch), dtype=torch.bool)
    for t in range(STEPS):
        step = model.decode(words, context, cache)
        best, _ = model.generator.best_word(step.hidden[:, -1], step.copy_scores[:, -1], context.source, BANNED)
        reply[~done, t] = best[~done]
        done |= best == EOS
        words = best[:, None]
    return reply


@torch.no_grad()
def everything(model: CTSM, batch: Batch) -> list[SimpleNamespace]:
    """What each example gets, padding cut off."""
    context = model.encode(batch, perceive=True)
    step = model.decode(batch.target[:, :-1], context, model.start_decoding(context))
    scores, replies = model.score(batch), greedy(model, batch)
    rows = torch.arange(len(batch)).repeat_interleave(batch.target.shape[1])
    log_words = model.generator.distribution(
        step.hidden.flatten(0, 1), step.copy_scores.flatten(0, 1), context.source.rows(rows), 60
    ).unflatten(0, (len(batch), -1))
    seen = []
    for b in range(len(batch)):
        source, target = int(batch.context_real[b].sum()), int(batch.target_real[b].sum())
        assert context.perception is not None
        seen.append(
            SimpleNamespace(
                reply=replies[b],
                in_lexicon=context.perception.in_lexicon[b, :source],
                numbers={
                    "logits": context.emotion_logits[b],
                    "scored logits": scores.emotion_logits[b],
                    "nll": scores.nll[b],
                    "tokens": scores.tokens[b],
                    "hidden": step.hidden[b, :target],
                    "copy": step.copy_scores[b, :target, :source],
                    "words": log_words[b, :target].exp(),
                    "trait": context.perception.trait[b, :source],
                    "inclination": context.perception.inclination[b, :source],
                    "state": context.perception.state[b, :source],
                },
            )
        )
    return seen


def check_same(first: SimpleNamespace, second: SimpleNamespace, **close: float) -> None:
    for name, value in first.numbers.items():
        torch.testing.assert_close(second.numbers[name], value, **close, msg=lambda text, name=name: f"{name}: {text}")
    assert torch.equal(first.in_lexicon, second.in_lexicon)


@settings(deadline=None, max_examples=12)
@given(count=st.integers(1, 32), place=st.integers(0, 31), padding=st.integers(0, 9), seed=st.integers(0, 999))
def test_an_example_alone_equals_itself_in_any_batch(
    model: CTSM, build: SimpleNamespace, count: int, place: int, padding: int, seed: int
) -> None:
    examples = varied(build, count, seed)
    chosen = place % count
    alone = everything(model, build.batch([examples[chosen]]))[0]
    together = everything(model, build.batch(examples, padding))[chosen]
    check_same(alone, together, **CLOSE)
    assert torch.equal(alone.reply, together.reply)


def test_every_example_of_a_batch_of_32_equals_itself_alone_in_single_precision(build: SimpleNamespace) -> None:
    model = build.model(seed=2, dtype=torch.float32)
    examples = varied(build, 32, seed=5)
    for example, together in zip(examples, everything(model, build.batch(examples, padding=4)), strict=True):
        check_same(everything(model, build.batch([example]))[0], together, rtol=1e-4, atol=1e-4)


def test_a_context_of_cls_alone_and_no_inferred_words_give_finite_losses_and_gradients(build: SimpleNamespace) -> None:
    model = build.model().train()
    bare = build.example(1, words=0, reactions=0, target_words=0)
    bare = replace(bare, cognitive=[[CLS]] * 4)
    for examples in ([bare], [bare, build.example(2)], [bare, bare]):
        model.zero_grad()
        losses = model.loss(build.batch(examples, padding=3))
        losses.total.backward()
        assert bool(torch.isfinite(losses.total))
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_a_batch_of_one_has_no_contrastive_loss(build: SimpleNamespace) -> None:
    losses = build.model().loss(build.batch([build.example(1)]))
    assert losses.terms["contrastive"].item() == 0.0


def test_scores_are_those_of_the_normalised_distribution(model: CTSM, build: SimpleNamespace) -> None:
    batch = build.batch(varied(build, 6, seed=3), padding=1)
    for example, seen in zip(range(6), everything(model, batch), strict=True):
        words = batch.target[example][batch.target_real[example]]
        torch.testing.assert_close(seen.numbers["words"].sum(dim=1), torch.ones(len(words), dtype=torch.float64))
        nll = -seen.numbers["words"].gather(1, words[:, None]).log().sum()
        torch.testing.assert_close(seen.numbers["nll"], nll)


@settings(deadline=None, max_examples=10)
@given(cuts=st.lists(st.integers(0, 4), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_cached_decoding_is_teacher_forcing(model: CTSM, build: SimpleNamespace, cuts: list[int], seed: int) -> None:
    """The first call may bring no word: the start embedding alone gives the state that predicts the first word."""
    batch = build.batch(varied(build, 3, seed))
    words = torch.randint(7, 53, (3, sum(cuts)))
    with torch.no_grad():
        context = model.encode(batch)
        whole = model.decode(words, context, model.start_decoding(context))
        assert whole.hidden.shape == (3, sum(cuts) + 1, model.options.size)
        cache = model.start_decoding(context)
        steps = [model.decode(part, context, cache) for i, part in enumerate(words.split(cuts, 1)) if i == 0 or cuts[i]]
    torch.testing.assert_close(torch.cat([step.hidden for step in steps], dim=1), whole.hidden, **CLOSE)
    torch.testing.assert_close(
        torch.cat([step.copy_scores for step in steps], dim=1), whole.copy_scores, rtol=1e-9, atol=1e-9
    )


@settings(deadline=None, max_examples=10)
@given(rows=st.lists(st.integers(0, 2), min_size=1, max_size=6), done=st.integers(0, 3), seed=st.integers(0, 99))
def test_selected_rows_go_on_as_if_decoded_from_the_start(
    model: CTSM, build: SimpleNamespace, rows: list[int], done: int, seed: int
) -> None:
    examples = varied(build, 3, seed)
    index = torch.tensor(rows)
    words, more = torch.randint(7, 53, (3, done)), torch.randint(7, 53, (len(rows), 3))
    with torch.no_grad():
        batch = build.batch(examples)
        context = model.encode(batch)
        cache = model.start_decoding(context)
        model.decode(words, context, cache)
        selected = cache.select(index)
        steps = [model.decode(more[:, t : t + 1], context, selected).hidden for t in range(3)]
        chosen = Batch(**{field.name: getattr(batch, field.name) for field in fields(batch)})
        chosen = replace(
            chosen, **{name: getattr(batch, name)[index] for name in ("context", "speakers", "cognitive", "reaction")},
            index=batch.index[index],
        )  # fmt: skip
        again = model.encode(chosen)
        whole = model.decode(torch.cat([words[index], more], dim=1), again, model.start_decoding(again)).hidden
    torch.testing.assert_close(torch.cat(steps, dim=1), whole[:, done + 1 :], **CLOSE)


def gold_removed(batch: Batch) -> Batch:
    """A batch as a service has it: neither label nor reply."""
    nothing: Any = None
    return replace(batch, emotion=nothing, target=nothing, target_positions=nothing)


def test_encoding_and_decoding_need_no_gold_label_and_no_gold_reply(model: CTSM, build: SimpleNamespace) -> None:
    batch = build.batch(varied(build, 4, seed=1))
    bare = gold_removed(batch)
    with torch.no_grad():
        given, needed = model.encode(batch, perceive=True), model.encode(bare, perceive=True)
    assert torch.equal(given.memory, needed.memory)
    assert torch.equal(given.emotion_logits, needed.emotion_logits)
    assert given.perception is not None
    assert needed.perception is not None
    assert torch.equal(given.perception.state, needed.perception.state)
    assert torch.equal(greedy(model, batch), greedy(model, bare))


def test_scores_of_the_emotion_do_not_depend_on_gold_label_or_reply(model: CTSM, build: SimpleNamespace) -> None:
    examples = varied(build, 4, seed=1)
    others = [
        replace(example, emotion=(example.emotion + 7) % 32, target=[9, 10, 11, EOS][i % 3 :])
        for i, example in enumerate(examples)
    ]
    with torch.no_grad():
        first: Scores = model.score(build.batch(examples))
        second: Scores = model.score(build.batch(others))
    assert torch.equal(first.emotion_logits, second.emotion_logits)
    assert not torch.equal(first.nll, second.nll)


def test_a_word_is_predicted_without_itself_and_the_words_after_it(model: CTSM, build: SimpleNamespace) -> None:
    example = build.example(3, words=5, target_words=6)
    with torch.no_grad():
        first = everything(model, build.batch([example]))[0].numbers["words"]
        changed = replace(example, target=[*example.target[:3], 11, 12, 13, EOS])
        second = everything(model, build.batch([changed]))[0].numbers["words"]
    torch.testing.assert_close(first[:4], second[:4], **CLOSE)
    assert not torch.allclose(first[4:], second[4:])


def test_replying_runs_neither_the_teacher_nor_the_reply_encoder(build: SimpleNamespace) -> None:
    model = build.model()
    training_only = ("teacher_fusion", "teacher_head", "reply_encoder", "emotion_view", "diversity")
    batch = build.batch(varied(build, 3, seed=1))
    with build.captured(model, *training_only, "student_fusion") as seen:
        model.encode(batch, perceive=True)
        model.score(batch)
        greedy(model, batch)
    assert set(seen) == {"student_fusion"}
    with build.captured(model, *training_only) as seen:
        model.loss(batch)
    assert set(seen) == set(training_only)


def test_evaluation_and_scoring_leave_the_counts_alone(build: SimpleNamespace) -> None:
    model, batch = build.model(), build.batch(varied(build, 5, seed=1))
    model.loss(batch)
    model.score(batch)
    greedy(model, batch)
    assert model.diversity.counts.sum().item() == 0
    model.train()
    model.score(batch)
    model.encode(batch)
    assert model.diversity.counts.sum().item() == 0
    model.loss(batch)
    assert model.diversity.counts.sum().item() > 0


def test_counts_are_saved_and_a_resumed_model_goes_on_alike(build: SimpleNamespace) -> None:
    model = build.model(seed=1).train()
    first_batch, second_batch = (build.batch(varied(build, 5, seed)) for seed in (1, 2))
    model.loss(first_batch)
    assert "diversity.counts" in dict(model.named_buffers())
    resumed = build.model(seed=9).train()
    resumed.load_state_dict(model.state_dict())
    first, second = model.loss(second_batch), resumed.loss(second_batch)
    assert torch.equal(first.total, second.total)
    assert torch.equal(model.diversity.counts, resumed.diversity.counts)
    fresh = build.model(seed=1).train().loss(second_batch)  # the counts do matter
    assert not torch.equal(fresh.terms["diversity"], first.terms["diversity"])


def test_counting_rules(build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows end before their first predicted EOS; padding and copied words outside the vocabulary do not count."""
    model = build.model().train()
    examples = [
        replace(build.example(i, words=4), target=[*range(7, 7 + words), EOS])
        for i, words in enumerate([5, 5, 3, 0, 2])
    ]
    predicted = [
        [7, 8, EOS, 8, 8, 8],  # counts 7 and 8 once
        [8, 8, 9, 8, 9, 8],  # no EOS: all six
        [EOS, 8, 8, 8],  # nothing
        [9],  # 9
        [51, 8, EOS],  # 51 is a copied word that the vocabulary lacks; 8
    ]
    flat = torch.tensor([word for row in predicted for word in row])

    def score(*_arguments: Any) -> Scored:
        return Scored(torch.full((len(flat),), -2.0, dtype=torch.float64), flat)

    monkeypatch.setattr(model.generator, "score", score)
    losses = model.loss(build.batch(examples, padding=2))
    counts = {7: 1, 8: 1 + 4 + 1, 9: 2 + 1}
    assert {word: int(n) for word, n in enumerate(model.diversity.counts.tolist()) if n} == counts
    raw = [1 - counts.get(word, 0) / 6 for word in range(build.vocabulary)]
    mean = sum(raw) / len(raw)
    gold = [word for example in examples for word in example.target]
    expected = sum(2.0 * raw[word] / mean for word in gold) / len(gold)
    assert losses.terms["diversity"].item() == pytest.approx(expected, rel=1e-6)
    assert losses.terms["generation"].item() == pytest.approx(2.0)
