"""What every system of the registry does alike; a new one is covered as soon as it is registered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import ctsm.nn.precision
from ctsm.config import RunConfig, TrainingOptions, read_config
from ctsm.corpus.batches import Batch
from ctsm.corpus.extras import NEEDS
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.resident import ResidentExamples
from ctsm.decoding.greedy import greedy
from ctsm.evaluation.evaluate import evaluate
from ctsm.models import REGISTRY, model_class, options_class
from ctsm.models.base import EmpatheticModel, Losses
from ctsm.models.bundle import DataFacts, load_bundle, save_bundle
from ctsm.nn.precision import bf16_products
from ctsm.serving.responder import Responder
from ctsm.training.loop import build_model, train

ROOT = Path(__file__).parents[2]
SIZE = 16
# Every system as it is by default, and switches that change what is computed from end to end.
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in sorted(REGISTRY)]
CASES += [("transformer", {"emotion_head": True}), ("transformer", {"layers": 2})]
LATE = 10**6
"""A step by which every schedule has run out."""


def small_options(name: str, **changes: Any) -> Any:
    """A system's default options with small widths."""
    widths = {"size": SIZE, "depth": 8, "filter_size": 5}
    options = options_class(name)
    for field in fields(options):
        if field.name.endswith("_size") and field.name not in widths:
            widths[field.name] = 14
    return options(**{**widths, **changes})


@dataclass(frozen=True)
class System:
    """A small untrained model and the data it reads."""

    config: RunConfig
    data: PreparedData
    model: EmpatheticModel

    def batch(self, split: str, rows: list[int]) -> Batch:
        return self.data.examples(split, self.model.needs).batch(np.array(rows))

    def static_batch(self, split: str, rows: list[int]) -> Batch:
        """With widths and packed targets rounded up."""
        return ResidentExamples(self.data.examples(split, self.model.needs), "cpu").batch(np.array(rows))

    def count(self, split: str) -> int:
        return len(self.data.examples(split))


@pytest.fixture(scope="module")
def data(tiny_dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """All that any system needs; contexts and replies of dev have words that the vocabulary lacks."""
    out = tmp_path_factory.mktemp("all-systems") / "data"
    options = PrepareOptions(
        str(tiny_dialogues),
        vad="sample",
        vector_size=SIZE,
        inferences="atomic:sample",
        vocabulary="train",
        emotion_words="sample",
        concepts="sample",
        feedback=True,
        cognition=True,
    )
    prepare(options, out)
    return PreparedData(out)


@pytest.fixture(params=CASES, ids=["-".join([name, *changes]) for name, changes in CASES])
def system(request: pytest.FixtureRequest, data: PreparedData) -> System:
    """A model in evaluation mode and single precision, with large enough values that outputs differ visibly."""
    name, changes = request.param
    config = RunConfig(name, "", small_options(name, **changes), TrainingOptions(batch_size=4, seed=5, warmup=10))
    model = build_model(config, data)
    with torch.no_grad():
        model.generator.vocabulary.weight.mul_(4.0)  # type: ignore[attr-defined]
    return System(config, data, model.eval())


def outputs(model: EmpatheticModel, batch: Batch) -> dict[str, Tensor]:
    """All that evaluation and decoding see of a batch, one row an example."""
    with torch.inference_mode():
        context = model.encode(batch)
        step = model.decode(batch.target[:, :-1], context, model.start_decoding(context))
        scores = model.score(batch)
    found = {"hidden": step.hidden, "nll": scores.nll, "tokens": scores.tokens}
    if scores.emotion_logits is not None:
        found["emotion"] = scores.emotion_logits
    return found


def replies(model: EmpatheticModel, batch: Batch) -> list[list[int]]:
    with torch.inference_mode():
        return greedy(model, model.encode(batch), max_tokens=9)


def test_it_is_registered_with_its_paper_configuration_and_page(system: System) -> None:
    name = system.config.model
    cls = model_class(name)
    assert cls.name == name
    assert cls.needs <= set(NEEDS)
    first_line = (import_module(REGISTRY[name].module).__doc__ or "").splitlines()[0]
    assert re.fullmatch(r"\w+: .+ \(.+ (19|20)\d\d\)\.", first_line), first_line
    assert read_config(ROOT / "configs" / f"{name}.yaml", []).options == options_class(name)()
    assert (ROOT / "docs" / "models" / f"{name}.md").is_file()


def test_it_can_be_counted_without_memory() -> None:
    for name in REGISTRY:
        with torch.device("meta"):
            model = model_class(name)(options_class(name)(), 23_713)
        assert all(parameter.is_meta for parameter in model.parameters())
        assert model.step == 0


def test_an_example_alone_is_itself_in_any_batch(system: System) -> None:
    model = system.model.double()
    everyone = list(range(system.count("dev")))[::-1]
    batch = system.batch("dev", everyone)
    together, said = outputs(model, batch), replies(model, batch)
    assert (batch.context >= model.vocabulary_size).any()  # unknown words are among them
    # An untrained model may say the same to everybody, but not with the same likelihoods.
    assert len({tuple(reply) for reply in said}) > 1 or together["nll"].unique().numel() > 1
    for place, row in enumerate(everyone):
        single = system.batch("dev", [row])
        alone = outputs(model, single)
        words = int(single.target_real.sum())
        for key, values in together.items():
            part = slice(0, words) if key == "hidden" else slice(None)
            torch.testing.assert_close(
                values[place][None][:, part] if key == "hidden" else values[place][None],
                alone[key][:, part] if key == "hidden" else alone[key],
                rtol=1e-7,
                atol=1e-7,
                msg=lambda text, key=key, row=row: f"{key} of example {row}: {text}",
            )
        assert replies(model, single)[0] == said[place]


@pytest.mark.parametrize("cuts", [[0, 1, 1, 1, 1, 1, 1], [2, 1, 3], [6]])
def test_cached_decoding_is_teacher_forcing(system: System, cuts: list[int]) -> None:
    """Also for rows that are selected on the way, twice or not at all, as beam search does."""
    model = system.model.double()
    batch = system.batch("dev", list(range(4)))
    words = torch.randint(7, model.vocabulary_size + 3, (4, sum(cuts)), generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([3, 1, 1])
    with torch.inference_mode():
        context = model.encode(batch)
        whole = model.decode(words, context, model.start_decoding(context)).hidden
        assert whole.shape == (4, sum(cuts) + 1, model.options.size)
        cache = model.start_decoding(context)
        parts = list(words.split(cuts, dim=1))
        stepwise = [model.decode(parts[0], context, cache).hidden]
        selected = cache.select(chosen)
        going_on = [model.decode(part[chosen], context, selected).hidden for part in parts[1:]]
        stepwise += [model.decode(part, context, cache).hidden for part in parts[1:]]
    torch.testing.assert_close(torch.cat(stepwise, dim=1), whole, rtol=1e-9, atol=1e-9)
    if going_on:
        torch.testing.assert_close(torch.cat(going_on, dim=1), whole[chosen, cuts[0] + 1 :], rtol=1e-9, atol=1e-9)


def test_a_batch_of_many_decodes_like_each_row(system: System) -> None:
    """Forty replies at once, which may take another way through a model than one."""
    model = system.model.double()
    rows = [row % system.count("dev") for row in range(40)]
    said = replies(model, system.batch("dev", rows))
    alone = [replies(model, system.batch("dev", [row]))[0] for row in range(system.count("dev"))]
    assert said == [alone[row] for row in rows]


def test_it_saves_and_loads_to_identical_outputs(system: System, tmp_path: Path) -> None:
    save_bundle(
        tmp_path / "model", system.model, system.config, system.data.directory, DataFacts.of(system.data.manifest), {}
    )
    loaded = load_bundle(tmp_path / "model")
    assert loaded.config == system.config
    batch = system.batch("dev", list(range(system.count("dev"))))
    first, second = outputs(system.model, batch), outputs(loaded.model, batch)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert replies(system.model, batch) == replies(loaded.model, batch)


def test_encoding_and_decoding_see_neither_gold_labels_nor_gold_replies(system: System) -> None:
    batch = system.batch("dev", list(range(4)))
    nothing: Any = None
    bare = replace(batch, emotion=nothing, target=nothing, target_positions=nothing)
    with torch.inference_mode():
        given, needed = system.model.encode(batch), system.model.encode(bare)
    assert torch.equal(given.memory, needed.memory)
    assert replies(system.model, batch) == replies(system.model, bare)
    others = replace(batch, emotion=(batch.emotion + 5) % 32)
    assert torch.equal(system.model.score(batch).nll, system.model.score(others).nll)


def test_evaluation_changes_nothing(system: System) -> None:
    before = {name: value.clone() for name, value in system.model.state_dict().items()}
    batch = system.batch("dev", list(range(4)))
    outputs(system.model, batch)
    replies(system.model, batch)
    for name, value in system.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def training_batches(system: System) -> Iterator[Batch]:
    count = system.count("train")
    for start in range(0, count, 8):
        yield system.batch("train", list(range(start, min(start + 8, count))))


def test_gradients_reach_every_parameter(system: System) -> None:
    """Over all examples, early and late in training: schedules switch parts of a model on and off."""
    model = system.model.train()
    reached = {name: False for name, _ in model.named_parameters()}
    for number, batch in enumerate(training_batches(system)):
        for step in (1 + number, 15_000 + number, LATE + number):
            model.step = step
            model.zero_grad()
            losses = model.loss(batch)
            losses.total.backward()
            assert torch.isfinite(losses.total)
            assert all(term.shape == () and torch.isfinite(term) for term in losses.terms.values())
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    assert torch.isfinite(parameter.grad).all(), name
                    reached[name] |= bool(parameter.grad.any())
    assert [name for name, value in reached.items() if not value] == []


@pytest.mark.parametrize("step", [1, 11_000, LATE])
def test_padding_changes_neither_losses_nor_gradients_nor_counts(system: System, step: int) -> None:
    """Padding is masked, so a batch of rounded widths and of more packed positions than targets is the same batch."""
    model = system.model.double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the values it draws would be others: there are more
    rows = list(range(1, 8))
    found = []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for batch in (system.batch("train", rows), system.static_batch("train", rows)):
        model.load_state_dict(before)
        model.step = step
        model.zero_grad()
        torch.manual_seed(4)
        losses = model.loss(batch)
        losses.total.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        after = {name: value for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        found.append({"total": losses.total, **losses.terms, **gradients, **{k: v.clone() for k, v in after.items()}})
    assert len(found[0]) > 5
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-7, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def test_scores_do_not_see_padding_either(system: System) -> None:
    model, rows = system.model.double(), list(range(6))
    exact, padded = (model.score(batch) for batch in (system.batch("dev", rows), system.static_batch("dev", rows)))
    torch.testing.assert_close(padded.nll, exact.nll, rtol=1e-9, atol=1e-9)
    assert torch.equal(padded.tokens, exact.tokens)


def without_values(batch: Batch) -> Batch:
    return batch.to("meta")


@pytest.mark.parametrize("step", [1, LATE + 1])
def test_a_step_reads_no_value(system: System, step: int) -> None:
    """On tensors without values: what makes the host wait for a device, or mixes devices, cannot be computed."""
    model = system.model.to("meta").train()
    model.step = step
    losses = model.loss(without_values(system.static_batch("train", list(range(6)))))
    losses.total.backward()
    assert all(term.is_meta for term in losses.terms.values())


def test_only_the_steps_of_empdgs_discriminators_read_values(data: PreparedData) -> None:
    config = RunConfig("empdg", "", small_options("empdg"), TrainingOptions())
    system = System(config, data, build_model(config, data).train().to("meta"))
    system.model.step = 11_000
    with pytest.raises(NotImplementedError, match=r"torch\.nonzero\(\).* data-independent"):
        system.model.loss(without_values(system.static_batch("train", list(range(6)))))


def test_a_compiled_loss_is_one_graph_for_all_steps(system: System) -> None:
    """Traced, not translated: nothing breaks the graph, and neither another step nor other words trace it anew."""
    model, counter = system.model.train(), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(lambda batch: model.loss(batch).total, backend=counter, fullgraph=True, dynamic=False)
    for step, rows in ((LATE + 1, [0, 1, 2, 3]), (LATE + 2, [3, 2, 1, 0]), (LATE + 3, [1, 3, 0, 2])):
        model.step = step
        batch = system.static_batch("train", rows)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        torch.manual_seed(4)
        total = compiled(batch)
        model.load_state_dict(before)
        torch.manual_seed(4)
        torch.testing.assert_close(total, model.loss(batch).total)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_losses_of_evaluation_mode_are_deterministic(system: System) -> None:
    system.model.step = LATE
    batch = system.batch("train", list(range(6)))
    first, second = system.model.loss(batch), system.model.loss(batch)
    assert torch.equal(first.total, second.total)
    assert first.terms.keys() == second.terms.keys()


def test_a_training_step_in_bf16(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """All products of linear maps in bf16: the loss is near that of fp32, but not the same, and a step lowers it."""
    model, batch = system.model, system.batch("train", list(range(6)))
    model.step = LATE
    plain = model.loss(batch).total.item()
    monkeypatch.setattr(ctsm.nn.precision, "SMALLEST", 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with bf16_products():
        losses = model.loss(batch)
    assert losses.total.item() != plain
    assert losses.total.item() == pytest.approx(plain, rel=0.05)
    losses.total.backward()
    assert all(parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    optimizer.step()
    with bf16_products():
        assert model.loss(batch).terms["generation"].item() < losses.terms["generation"].item()


def test_it_trains_is_scored_and_answers(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of every system: the trainer counts its steps, a record is made of it, and it talks."""
    cls, steps = type(system.model), []
    loss = cls.loss

    def counted(model: EmpatheticModel, batch: Batch) -> Losses:
        steps.append(model.step)
        return loss(model, batch)

    monkeypatch.setattr(cls, "loss", counted)
    training = TrainingOptions(
        batch_size=8, iterations=3, warmup=10, evaluate_every=3, evaluate_from=3, log_every=1, tensorboard=False
    )
    run, data = tmp_path / "run", system.data.directory
    assert train(replace(system.config, training=training), data, run, resume=False).progress.best_iteration == 3
    assert steps == [1, 2, 3]
    record = evaluate(run, data, "test", tmp_path / "scores").record
    head = system.model.encode(system.batch("dev", [0])).emotion_logits is not None
    assert (record.acc is not None) == head
    assert record.parameters == sum(parameter.numel() for parameter in system.model.parameters())
    response = Responder(load_bundle(run)).respond(["My dog has learned to open the fridge!"])
    assert (response.emotion is not None) == head
    assert len(response.probabilities) == 32 * head
