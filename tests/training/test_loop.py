from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ctsm.config import RunConfig
from ctsm.corpus.batches import shuffled_batches
from ctsm.corpus.prepared import PreparedData
from ctsm.evaluation.scoring import ExampleScores, score_examples
from ctsm.models.bundle import load_bundle
from ctsm.training import loop, reporter
from ctsm.training.loop import build_model, train
from ctsm.training.schedule import noam_rate

TERMS = ["teacher", "student", "generation", "contrastive", "diversity"]


def test_the_log_says_what_happened(prepared: Path, tiny_config: RunConfig, tmp_path: Path) -> None:
    outcome = train(tiny_config, prepared, tmp_path / "run", resume=False)
    assert outcome.signal is None
    assert outcome.progress.finished
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["iteration"]) for line in lines] == [
        ("train", 2),
        ("train", 4),
        ("dev", 4),
        ("train", 6),
        ("train", 8),
        ("dev", 8),
        ("train", 10),
        ("train", 12),
        ("dev", 12),
    ]
    for line in lines:
        if line["kind"] == "train":
            assert list(line) == ["kind", "iteration", "loss", *TERMS, "learning_rate", "seconds"]
            rate = noam_rate(line["iteration"], 16, warmup=10, factor=0.2)
            assert line["learning_rate"] == pytest.approx(rate)
            weights = dict.fromkeys(TERMS, 1.0) | {"diversity": 1.5}
            assert line["loss"] == pytest.approx(sum(weights[term] * line[term] for term in TERMS), rel=1e-5)
        else:
            assert list(line) == ["kind", "iteration", "acc", "ppl_example", "ppl_token", "seconds"]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert outcome.progress.log_bytes == (tmp_path / "run" / "log.jsonl").stat().st_size
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best",
        "checkpoints",
        "log.jsonl",
        "run.json",
    ]


def test_a_log_line_is_the_mean_of_its_steps(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    for every in (1, 3):
        train(runs.changed(tiny_config, log_every=every), prepared, tmp_path / f"run{every}", resume=False)
    single, joined = runs.records(tmp_path / "run1", "train"), runs.records(tmp_path / "run3", "train")
    assert len(single) == 12
    assert [line["iteration"] for line in joined] == [3, 6, 9, 12]
    for place, line in enumerate(joined):
        for term in ["loss", *TERMS]:
            steps = [step[term] for step in single[3 * place : 3 * place + 3]]
            assert line[term] == pytest.approx(sum(steps) / 3, rel=1e-6)


def test_the_loss_falls(prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace) -> None:
    config = runs.changed(tiny_config, iterations=80, evaluate_every=80, checkpoint_every=80, rate_factor=0.1)
    train(config, prepared, tmp_path / "run", resume=False)
    losses = [line["loss"] for line in runs.records(tmp_path / "run", "train")]
    generation = [line["generation"] for line in runs.records(tmp_path / "run", "train")]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert np.mean(generation[-5:]) < 0.85 * np.mean(generation[:5])
    (dev,) = runs.records(tmp_path / "run", "dev")
    assert dev["ppl_example"] < 0.7 * len(PreparedData(prepared).vocabulary), "better than chance"


def test_adam_with_the_noam_rate_written_out(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    """Three steps of the loop against Adam in numpy, double precision, on gradients of the same batches."""
    steps = 3
    config = runs.changed(tiny_config, iterations=steps)
    train(config, prepared, tmp_path / "run", resume=False)
    trained = runs.state_of(tmp_path / "run", config, prepared)
    data = PreparedData(prepared)
    model = build_model(config, data).train()
    examples = data.examples("train")
    batches = shuffled_batches(examples.context.lengths, 4, config.training.seed, 0, config.training.pool)
    moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for step in range(1, steps + 1):
        model.zero_grad()
        model.loss(examples.batch(batches[step - 1])).total.backward()
        rate = 0.2 * 16**-0.5 * min(step**-0.5, step * 10**-1.5)
        for name, parameter in model.named_parameters():
            gradient = parameter.grad.numpy().astype(np.float64)
            first, second = moments.get(name, (np.zeros_like(gradient), np.zeros_like(gradient)))
            first = 0.9 * first + 0.1 * gradient
            second = 0.98 * second + 0.02 * gradient**2
            moments[name] = first, second
            change = rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.98**step)) + 1e-9)
            with torch.no_grad():
                parameter -= torch.from_numpy(change).float()
    for name, parameter in model.named_parameters():
        # where a gradient is all but zero, its sign is rounding noise and the step may go either way
        sure = np.sqrt(moments[name][1]) > 1e-6
        ours, theirs = parameter.detach().numpy()[sure], trained[name].numpy()[sure]
        assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-4), name
        assert trained[f"{name}/step"] == steps
    assert torch.equal(model.diversity.counts, trained["diversity.counts"])


def test_evaluating_leaves_no_trace_in_the_training(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    """Evaluated after every step or only at the end: the same weights, moments and diversity counts."""
    for every in (1, 12):
        config = runs.changed(tiny_config, evaluate_every=every, evaluate_from=1, checkpoint_every=every)
        train(config, prepared, tmp_path / f"run{every}", resume=False)
    often, once = (runs.state_of(tmp_path / f"run{every}", tiny_config, prepared) for every in (1, 12))
    assert runs.same(often, once)
    assert often["diversity.counts"].sum() > 0
    assert len(runs.records(tmp_path / "run1", "dev")) == 12


def test_the_same_seed_gives_the_same_run(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        train(runs.changed(tiny_config, seed=seed), prepared, tmp_path / name, resume=False)
    first, again, other = (runs.state_of(tmp_path / name, tiny_config, prepared) for name in "abc")
    assert runs.same(first, again)
    assert not runs.same(first, other)

    def without_seconds(name: str) -> list[dict[str, Any]]:
        return [{**line, "seconds": 0} for kind in ("train", "dev") for line in runs.records(tmp_path / name, kind)]

    assert without_seconds("a") == without_seconds("b")
    assert without_seconds("a") != without_seconds("c")


def test_the_best_model_is_the_best_on_dev(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    """Its score is recomputed from its own weights, example by example.

    The learning rate rises until it does harm, so that the best evaluation is far from the last one on any machine.
    """
    config = runs.changed(tiny_config, iterations=24, evaluate_every=4, warmup=1_000, rate_factor=300.0, patience=100)
    outcome = train(config, prepared, tmp_path / "run", resume=False)
    evaluations = {line["iteration"]: line["ppl_example"] for line in runs.records(tmp_path / "run", "dev")}
    best = min(evaluations, key=evaluations.__getitem__)
    assert best != max(evaluations), "the run should end worse than its best"
    assert outcome.progress.best_iteration == best
    assert outcome.progress.best_score == evaluations[best]
    assert outcome.progress.stale_evaluations == sum(iteration > best for iteration in evaluations)
    bundle = load_bundle(tmp_path / "run")
    assert bundle.progress["iteration"] == best
    examples = PreparedData(prepared).examples("dev")
    means = []
    for row in range(len(examples)):
        with torch.no_grad():
            scores = bundle.model.score(examples.batch(np.array([row])))
        means.append(float(scores.nll) / int(scores.tokens))
    assert math.exp(sum(means) / len(means)) == pytest.approx(evaluations[best], rel=1e-4)
    assert bundle.progress["dev"]["ppl_example"] == evaluations[best]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace dev scores: the n-th evaluation has the n-th perplexity."""

    def script(*perplexities: float) -> None:
        left = list(perplexities)

        def score(model: Any, examples: Any, **options: Any) -> ExampleScores:
            real = score_examples(model, examples, **options)
            nll = np.log(left.pop(0)) * real.tokens
            return ExampleScores(nll, real.tokens, real.emotion_logits)

        monkeypatch.setattr(loop, "score_examples", score)

    return script


@pytest.mark.parametrize(
    ("perplexities", "patience", "stop", "best"),
    [
        ([9, 8, 7, 6, 5], 2, 5, 5),
        ([9, 8, 8, 8, 1], 2, 4, 2),  # equal is no improvement
        ([9, 8, 9, 7, 9, 9, 1], 2, 6, 4),  # an improvement starts the count anew
        ([5, 6], 1, 2, 1),
    ],
)
def test_patience(
    prepared: Path,
    tiny_config: RunConfig,
    tmp_path: Path,
    scripted: Callable[..., None],
    perplexities: list[float],
    patience: int,
    stop: int,
    best: int,
    runs: SimpleNamespace,
) -> None:
    scripted(*perplexities)
    config = runs.changed(
        tiny_config, evaluate_every=1, evaluate_from=1, patience=patience, iterations=len(perplexities)
    )
    progress = train(config, prepared, tmp_path / "run", resume=False).progress
    assert (progress.iteration, progress.best_iteration) == (stop, best)
    assert progress.finished
    assert progress.best_score == pytest.approx(perplexities[best - 1])
    assert load_bundle(tmp_path / "run").progress["iteration"] == best
    # resuming a finished run changes nothing
    before = runs.tree(tmp_path / "run")
    assert train(config, prepared, tmp_path / "run", resume=True).progress == progress
    assert runs.tree(tmp_path / "run") == before


def test_early_evaluations_do_not_count(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, scripted: Callable[..., None], runs: SimpleNamespace
) -> None:
    scripted(1, 2, 3, 9, 8, 9)
    config = runs.changed(tiny_config, evaluate_every=1, evaluate_from=4, patience=2, iterations=6)
    progress = train(config, prepared, tmp_path / "run", resume=False).progress
    assert progress.best_iteration == 5
    assert progress.stale_evaluations == 1
    assert [line["ppl_example"] for line in runs.records(tmp_path / "run", "dev")] == pytest.approx([1, 2, 3, 9, 8, 9])


def test_a_short_run_has_a_best_model_all_the_same(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, scripted: Callable[..., None], runs: SimpleNamespace
) -> None:
    scripted(9)
    config = runs.changed(tiny_config, evaluate_every=100, evaluate_from=50, iterations=3)
    assert train(config, prepared, tmp_path / "run", resume=False).progress.best_iteration == 3
    assert load_bundle(tmp_path / "run").progress["iteration"] == 3


def test_time_is_counted_once(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: SimpleNamespace
) -> None:
    """A clock that stands still but for 1 s a step and 100 s an evaluation."""
    now = 0.0

    def step(iteration: int, *rest: float) -> float:
        nonlocal now
        now += 1.0
        return noam_rate(iteration, *rest)

    def evaluate(*arguments: Any, **options: Any) -> ExampleScores:
        nonlocal now
        now += 100.0
        return score_examples(*arguments, **options)

    monkeypatch.setattr("ctsm.training.step.noam_rate", step)
    monkeypatch.setattr(loop, "score_examples", evaluate)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now)
    progress = train(tiny_config, prepared, tmp_path / "run", resume=False).progress
    assert progress.train_seconds == 12 + 3 * 100
    assert [line["seconds"] for line in runs.records(tmp_path / "run", "dev")] == [104, 208, 312]
    progress = train(runs.changed(tiny_config, iterations=16), prepared, tmp_path / "run", resume=True).progress
    assert progress.train_seconds == 16 + 4 * 100


def test_raising_the_limits_goes_on(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    long = runs.changed(tiny_config, iterations=16)
    train(long, prepared, tmp_path / "whole", resume=False)
    train(runs.changed(tiny_config, iterations=8), prepared, tmp_path / "parts", resume=False)
    progress = train(long, prepared, tmp_path / "parts", resume=True).progress
    assert (progress.iteration, progress.finished) == (16, True)
    assert runs.same(
        runs.state_of(tmp_path / "whole", long, prepared), runs.state_of(tmp_path / "parts", long, prepared)
    )
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["config"]["training"]["iterations"] == 16


def test_raising_the_patience_goes_on(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, scripted: Callable[..., None], runs: SimpleNamespace
) -> None:
    scripted(5, 6, 7, 4, 5, 6, 7)
    config = runs.changed(tiny_config, evaluate_every=1, evaluate_from=1, patience=2, iterations=7)
    assert train(config, prepared, tmp_path / "run", resume=False).progress.iteration == 3
    more = runs.changed(config, patience=3)
    progress = train(more, prepared, tmp_path / "run", resume=True).progress
    assert (progress.iteration, progress.best_iteration, progress.stale_evaluations) == (7, 4, 3)


def test_tensorboard_logs(prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace) -> None:
    pytest.importorskip("tensorboard", reason="needs the optional dependency group 'train'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = runs.changed(tiny_config, tensorboard=True, iterations=4)
    train(config, prepared, tmp_path / "run", resume=False)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for kind, name in (("train", "loss"), ("train", "teacher"), ("dev", "ppl_example")):
        logged = [(event.step, event.value) for event in events.Scalars(f"{kind}/{name}")]
        expected = [(line["iteration"], line[name]) for line in runs.records(tmp_path / "run", kind)]
        assert logged == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


def test_the_word_tables_are_installed(prepared: Path, tiny_config: RunConfig) -> None:
    data = PreparedData(prepared)
    model = build_model(tiny_config, data)
    word = data.vocabulary.id_of("home")
    assert model.embedding.weight[word].tolist() == data.words["vectors"][word].tolist()
    assert model.word_features[word, 3] == data.words["idf"][word]
    assert model.in_lexicon.tolist() == data.words["in_lexicon"].tolist()


def test_the_reporter_closes_its_log(tmp_path: Path) -> None:
    with reporter.Reporter(tmp_path, 5, 0, 0, tensorboard=False) as report:
        report.record("train", 1, {"loss": 2.0}, 0.126)
        assert report.sync() == (tmp_path / "log.jsonl").stat().st_size
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {
        "kind": "train",
        "iteration": 1,
        "loss": 2.0,
        "seconds": 0.13,
    }
    with reporter.Reporter(tmp_path, 5, 0, 0, tensorboard=False):
        pass
    assert (tmp_path / "log.jsonl").read_text() == ""
