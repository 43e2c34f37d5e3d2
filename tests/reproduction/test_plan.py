"""Which runs make a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctsm.errors import CtsmError
from ctsm.evaluation.paper import TABLE_1, TABLE_3, PaperRow
from ctsm.reproduction import plan as planning
from ctsm.reproduction.plan import Places, alternatives, choose, plan, title_of

Configure = Callable[..., None]

# The register of the specification: what A1, A2, A6, A9 and A14 may also mean.
ALTERNATIVES = [
    ("fusion_sharing", "mlp_only"),
    ("fusion_sharing", "all"),
    ("vad_default", "kemp"),
    ("emotion_pool", "sum_gate"),
    ("emotion_pool", "sum"),
    ("decoder_memory", "stu+emo"),
    ("contrastive_negatives", "cross_view"),
    ("contrastive_negatives", "paper"),
]


def test_the_alternatives_are_those_of_the_five_open_points() -> None:
    assert alternatives() == ALTERNATIVES


def test_ambiguities_change_one_option_each_and_train_for_3000_iterations(places: Places) -> None:
    jobs = plan("ambiguities", places, 1, [])
    assert [job.label for job in jobs] == ["default", *(f"{name}={value}" for name, value in ALTERNATIVES)]
    base = jobs[0].config
    assert base.training.iterations == 3000
    assert base.training.warmup == 10, "all else is the configuration's"
    for job, (name, value) in zip(jobs[1:], ALTERNATIVES, strict=True):
        different = {key: new for key, new in vars(job.config.options).items() if new != getattr(base.options, key)}
        assert different == {name: value}
        assert job.config.training == base.training
        assert job.splits == ("dev",), "an alternative is never chosen on test"
    assert jobs[6].run == places.runs / "ambiguities" / "ctsm-decoder-memory-stu-emo-seed7"
    assert len({job.run for job in jobs}) == 9
    assert {job.results for job in jobs} == {places.results / "ambiguities"}


def test_seeds_count_on_and_come_after_the_rows(places: Places) -> None:
    jobs = plan("ambiguities", places, 2, ["--training.iterations", "5", "--training.seed=20"])
    assert [job.seed for job in jobs] == [20] * 9 + [21] * 9
    assert {job.config.training.iterations for job in jobs} == {5}
    assert [job.title for job in jobs[:9:8]] == ["ctsm-default-seed20", "ctsm-contrastive-negatives-paper-seed20"]
    for count in (0, -1):
        with pytest.raises(CtsmError, match=f"--seeds is {count}"):
            plan("ambiguities", places, count, [])


def test_rows_of_a_table_come_from_their_files(
    places: Places, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (PaperRow("CTSM", "ctsm", "", 43.41, 34.56, 2.0, 7.34), PaperRow("w/o X", "ctsm", "w/o X", 1, 2, 3, 4))
    monkeypatch.setitem(planning.TABLE_TARGETS, "table3", rows)
    with pytest.raises(CtsmError, match=r"ctsm-wo-x\.yaml: no such file"):
        plan("table3", places, 1, [])
    configure("ctsm-wo-x", variant="")
    with pytest.raises(
        CtsmError, match=r"ctsm-wo-x\.yaml: .*the row 'w/o X' needs `model: ctsm` and `variant: 'w/o X'`"
    ):
        plan("table3", places, 1, [])
    configure("ctsm-wo-x", variant="w/o X")
    with pytest.raises(CtsmError, match=r"options\.without is '', which is not 'w/o X'"):
        plan("table3", places, 1, [])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("gpt", "", "unknown model 'gpt'"),
        ("ctsm", "colour: red", "colour"),
        ("ctsm", "vad_default: cemp", "vad_default"),
        ("ctsm", "without: W/O TEA", "without"),
    ],
)
def test_a_wrong_model_option_or_ablation_is_one_sentence(
    places: Places, configure: Configure, model: str, options: str, message: str
) -> None:
    configure("ctsm", model=model, options=options)
    with pytest.raises(CtsmError, match=message) as caught:
        plan("ambiguities", places, 1, [])
    assert str(caught.value).startswith(str(places.configs / "ctsm.yaml"))
    assert "\n" not in str(caught.value)


def test_rows_are_chosen_by_their_labels(places: Places) -> None:
    jobs = plan("ambiguities", places, 2, [])
    assert choose(jobs, []) == jobs
    assert [job.title for job in choose(jobs, ["default"])] == ["ctsm-default-seed7", "ctsm-default-seed8"]
    with pytest.raises(CtsmError, match=r"--rows kemp: there is no such row; choose from default, fusion_sharing="):
        choose(jobs, ["default", "kemp"])


def test_targets_have_the_titles_of_the_tables() -> None:
    assert (title_of("table1"), title_of("table3")) == ("Table 1", "Table 3")
    assert title_of("ambiguities") == "the open points"


@pytest.mark.parametrize("target", ["table1", "table3"])
def test_every_row_of_the_paper_has_a_configuration_that_comes_along(target: str) -> None:
    configs = Path(__file__).parents[2] / "configs"
    rows = {"table1": TABLE_1, "table3": TABLE_3}[target]
    jobs = plan(target, Places(configs, Path("runs"), Path("results")), 1, [])
    assert [job.label for job in jobs] == [row.label for row in rows]
    assert [(job.config.model, job.config.variant) for job in jobs] == [(row.model, row.variant) for row in rows]
    assert all(job.splits == ("dev", "test") for job in jobs)
