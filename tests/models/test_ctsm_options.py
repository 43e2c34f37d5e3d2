"""Sizes, switches, initial values, and which parameters training reaches."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ctsm.models.ctsm import CTSM, CTSMOptions

SWITCHES = {
    "fusion_sharing": ("separate", "mlp_only", "all"),
    "vad_default": ("paper", "kemp"),
    "emotion_pool": ("attention", "sum_gate", "sum"),
    "decoder_memory": ("stu", "stu+emo"),
    "contrastive_negatives": ("both_views", "cross_view", "paper"),
}
ABLATIONS = {"without": ("", "TEE", "SEE", "EGM", "CCL", "EGM & CCL")}


def full_size(**changes: Any) -> CTSM:
    """The paper's sizes, without memory or values."""
    with torch.device("meta"):
        return CTSM(CTSMOptions(**changes), 23_712)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 20_735_777),
        ({"fusion_sharing": "mlp_only"}, 20_735_777 - 1_620_000),
        ({"fusion_sharing": "all"}, 18_475_477),
        ({"decoder_memory": "stu+emo"}, 20_735_777 + 4_560),
    ],
)
def test_parameter_counts(changes: dict[str, Any], parameters: int) -> None:
    assert count(full_size(**changes)) == parameters


@pytest.mark.parametrize(
    ("block", "parameters"),
    [
        ("context_encoder", 230_150),
        ("cognitive_encoder", 230_150),
        ("affective_encoder", 230_150),
        ("reply_encoder", 230_150),
        ("student_fusion.cognitive", 320_150),
        ("student_fusion.affective", 320_150),
        ("student_fusion", 2_260_300),
        ("teacher_fusion", 2_260_300),
        ("trait_encoder", 6_784),
        ("state_encoder", 21_980),
        ("teacher_head", 267_425),
        ("student_head", 267_425),
        ("decoder", 278_750),
        ("condense", 3_000),
        ("label_map", 90_300),
        ("word_map", 90_300),
        ("emotion_view", 17_400),
        ("generator", 23_712 * 301 + 301),
        ("embedding", 23_712 * 300),
    ],
)
def test_block_counts(block: str, parameters: int) -> None:
    assert count(full_size().get_submodule(block)) == parameters


def test_the_five_switches_and_the_ablations_are_the_only_open_points() -> None:
    hints = get_type_hints(CTSMOptions)
    choices = {name: get_args(hint) for name, hint in hints.items() if hint not in (int, float)}
    assert choices == SWITCHES | ABLATIONS


def one_step(build: SimpleNamespace, options: CTSMOptions) -> CTSM:
    """Train one step and check that every trained parameter moved and stayed finite."""
    model = build.model(options, dtype=torch.float32).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = build.batch([build.example(seed, words=3 + seed, target_words=2 + seed) for seed in range(5)])
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    losses = model.loss(batch)
    losses.total.backward()
    optimiser.step()
    assert bool(torch.isfinite(losses.total))
    for name, value in model.named_parameters():
        assert bool(torch.isfinite(value).all()), name
        assert not torch.equal(value, before[name]), name
    return model


@settings(deadline=None, max_examples=12)
@given(changes=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SWITCHES.items()}))
def test_every_combination_of_switches_trains(build: SimpleNamespace, changes: dict[str, Any]) -> None:
    one_step(build, build.options(**changes))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in SWITCHES for value in SWITCHES[name]])
def test_every_value_of_every_switch_trains(build: SimpleNamespace, name: str, value: str) -> None:
    one_step(build, build.options(**{name: value}))


@pytest.mark.parametrize(
    "sizes",
    [
        {"size": 1, "layers": 1, "heads": 1, "depth": 1, "filter_size": 1, "semantic_size": 1, "fusion_size": 1},
        {"size": 13, "layers": 2, "heads": 3, "depth": 6, "filter_size": 20, "semantic_size": 3, "fusion_size": 2},
    ],
)
def test_smallest_and_odd_sizes_build_and_run(build: SimpleNamespace, sizes: dict[str, int]) -> None:
    model = build.model(CTSMOptions(**sizes)).train()
    loss = model.loss(build.batch([build.example(1), build.example(2)])).total
    loss.backward()
    assert bool(torch.isfinite(loss))


def test_training_lowers_the_loss(build: SimpleNamespace) -> None:
    model = build.model(dtype=torch.float32).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    batch = build.batch([build.example(seed) for seed in range(6)])
    totals = []
    for _ in range(30):
        optimiser.zero_grad()
        losses = model.loss(batch)
        losses.total.backward()
        optimiser.step()
        totals.append({name: term.item() for name, term in losses.terms.items()})
    for name in ("teacher", "generation", "contrastive"):
        assert totals[-1][name] < 0.7 * totals[0][name], name


def test_gradients_reach_every_parameter(build: SimpleNamespace) -> None:
    for changes in ({}, {"emotion_pool": "sum_gate", "decoder_memory": "stu+emo"}, {"layers": 2}):
        model = build.model(build.options(**changes)).train()
        model.loss(build.batch([build.example(seed, words=4 + seed) for seed in range(6)], padding=1)).total.backward()
        missing = [
            name for name, value in model.named_parameters() if value.grad is None or not bool(value.grad.abs().sum())
        ]
        assert missing == []


def test_padding_is_no_word(build: SimpleNamespace) -> None:
    model = build.model().train()
    model.loss(build.batch([build.example(1), build.example(2, words=2)], padding=3)).total.backward()
    assert model.embedding.weight[1].abs().sum().item() == 0
    assert model.embedding.weight.grad is not None
    assert model.embedding.weight.grad[1].abs().sum().item() == 0


# What the switches change.


def test_fusion_sharing(build: SimpleNamespace) -> None:
    models = {value: build.model(build.options(fusion_sharing=value)) for value in SWITCHES["fusion_sharing"]}
    batch = build.batch([build.example(1), build.example(2)])
    for value, model in models.items():
        assert (model.teacher_fusion is model.student_fusion) == (value == "all")
        assert (model.teacher_fusion.mlp is model.student_fusion.mlp) == (value != "separate")
        assert (model.teacher_fusion.cognitive is model.student_fusion.cognitive) == (value == "all")
        with build.captured(model, "teacher_head", "student_head") as seen:
            model.loss(batch)
        teacher, student = (seen[name][0][0][..., : model.options.size] for name in ("teacher_head", "student_head"))
        assert torch.equal(teacher, student) == (value == "all")
        assert model.teacher_head is not model.student_head


@pytest.mark.parametrize(("value", "default"), [("paper", [0.0, 0.5, 0.0]), ("kemp", [0.5, 0.0, 0.5])])
def test_vad_default_is_that_of_words_outside_the_lexicon(
    build: SimpleNamespace, value: str, default: list[float]
) -> None:
    options = build.options(vad_default=value)
    tables = build.tables(options.size)
    model = CTSM(options, build.vocabulary)
    model.install(tables)
    outside = ~tables.in_lexicon
    assert 7 < int(outside.sum()) < build.vocabulary
    assert model.word_features[outside][:, :3].tolist() == [default] * int(outside.sum())
    assert torch.equal(model.word_features[~outside][:, :3], tables.vad[~outside])
    assert model.word_features[outside][:, 4].abs().sum().item() == 0
    assert torch.equal(model.word_features[:, 3], tables.idf)
    assert torch.equal(model.word_features[:, 4], tables.intensity)


def test_vad_default_changes_what_the_model_perceives(build: SimpleNamespace) -> None:
    batch = build.batch([build.example(1), build.example(2)])
    logits = [build.model(build.options(vad_default=v)).encode(batch).emotion_logits for v in SWITCHES["vad_default"]]
    assert not torch.allclose(*logits)


def test_emotion_pool(build: SimpleNamespace) -> None:
    model = build.model()
    x, intensity = torch.randn(2, 4, 57).double(), torch.rand(2, 4).double()
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    logits = {}
    for pool in SWITCHES["emotion_pool"]:
        head = build.model(build.options(emotion_pool=pool)).student_head
        head.hidden, head.output = model.student_head.hidden, model.student_head.output
        logits[pool] = head(x, intensity, real)
    assert not torch.allclose(logits["attention"], logits["sum_gate"])
    assert not torch.allclose(logits["attention"], logits["sum"])
    assert not torch.allclose(logits["sum_gate"], logits["sum"])
    names = [name for name, _ in build.model(build.options(emotion_pool="sum")).student_head.named_parameters()]
    assert {name.split(".")[0] for name in names} == {"hidden", "output"}


def test_decoder_memory(build: SimpleNamespace) -> None:
    batch = build.batch([build.example(1), build.example(2)])
    widths = {"stu": 12, "stu+emo": 12 + (4 + 4) + (32 + 1 + 4)}
    for value, width in widths.items():
        model = build.model(build.options(decoder_memory=value))
        assert model.encode(batch).memory.shape[-1] == width
        reached = torch.autograd.grad(
            model.score(batch).nll.sum(), list(model.state_encoder.parameters()), allow_unused=True
        )
        assert all(gradient is None for gradient in reached) == (value == "stu")


def test_contrastive_negatives_change_the_contrastive_loss_alone(build: SimpleNamespace) -> None:
    model, batch = build.model(), build.batch([build.example(seed) for seed in range(4)])
    terms = []
    for value in SWITCHES["contrastive_negatives"]:
        model.options = replace(model.options, contrastive_negatives=value)
        terms.append({name: term.item() for name, term in model.loss(batch).terms.items()})
    assert len({term["contrastive"] for term in terms}) == 3
    for name in ("teacher", "student", "generation", "diversity"):
        assert len({term[name] for term in terms}) == 1


# What is refused.


@pytest.mark.parametrize("name", ["size", "layers", "heads", "depth", "filter_size", "semantic_size", "fusion_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_below_one_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"options\.{name}"):
        CTSMOptions(**{name: value})


@pytest.mark.parametrize("value", [12.5, "12", None])
def test_sizes_must_be_whole_numbers(value: Any) -> None:
    """A configuration file may hold anything; the model must not be half built before that is noticed."""
    with pytest.raises((ValueError, TypeError)):
        CTSMOptions(size=value)


def test_depth_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match=r"options\.depth"):
        CTSMOptions(depth=40, heads=3)


@pytest.mark.parametrize("value", [0.0, -0.07, math.nan, math.inf])
def test_temperature_must_be_a_positive_number(value: float) -> None:
    with pytest.raises(ValueError, match=r"options\.temperature"):
        CTSMOptions(temperature=value)


@pytest.mark.parametrize("name", ["emotion_weight", "generation_weight", "contrastive_weight", "diversity_weight"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_loss_weights_must_be_finite_and_not_negative(name: str, value: float) -> None:
    assert getattr(CTSMOptions(**{name: 0.0}), name) == 0.0  # 0 switches a term off
    with pytest.raises(ValueError, match=rf"options\.{name}"):
        CTSMOptions(**{name: value})


@pytest.mark.parametrize("name", list(SWITCHES))
@pytest.mark.parametrize("value", ["Separate", None])
def test_unknown_switch_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"options\.{name}"):
        CTSMOptions(**{name: value})


# Initial values and tables.


def test_initial_values_are_xavier_uniform_except_the_embedding() -> None:
    torch.manual_seed(0)
    model = CTSM(CTSMOptions(size=40, fusion_size=60), 300)
    for name, value in model.named_parameters():
        if value.dim() < 2 or name == "embedding.weight":
            continue
        taps = value[0, 0].numel()
        bound = math.sqrt(6 / (taps * (value.shape[0] + value.shape[1])))
        assert value.abs().max().item() <= bound, name
        if value.numel() > 500:
            assert value.abs().max().item() > 0.97 * bound, name
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
    assert model.embedding.weight[7:].std().item() == pytest.approx(1.0, rel=0.05)


def test_install_fills_embedding_and_labels(build: SimpleNamespace) -> None:
    options = build.options()
    tables = build.tables(options.size)
    model = CTSM(options, build.vocabulary)
    model.install(tables)
    words = [word for word in range(build.vocabulary) if word != 1]
    assert torch.equal(model.embedding.weight[words], tables.vectors[words])
    assert model.embedding.weight[1].abs().sum().item() == 0
    assert model.label_ids.tolist() == build.labels
    assert len(set(model.label_ids.tolist())) == 32
    assert torch.equal(model.in_lexicon, tables.in_lexicon)
    assert model.embedding.weight.requires_grad


def test_tables_come_with_the_saved_state(build: SimpleNamespace) -> None:
    model = build.model()
    assert {"word_features", "in_lexicon", "label_ids", "diversity.counts"} <= set(model.state_dict())
    restored = CTSM(build.options(), build.vocabulary).double().eval()
    restored.load_state_dict(model.state_dict())
    batch = build.batch([build.example(1), build.example(2)])
    assert torch.equal(restored.score(batch).nll, model.score(batch).nll)


def test_label_tables_of_another_length_are_refused(build: SimpleNamespace) -> None:
    options = build.options()
    for labels in (torch.tensor([9]), torch.arange(7, 38)):
        with pytest.raises((ValueError, RuntimeError)):
            CTSM(options, build.vocabulary).install(replace(build.tables(options.size), labels=labels))
