from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.config import RunConfig, TrainingOptions, config_from_json, read_config
from ctsm.errors import CtsmError
from ctsm.models.ctsm import CTSMOptions

CONFIGS = Path(__file__).parent.parent / "configs"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_parses(path: Path) -> None:
    config = read_config(path, [])
    assert isinstance(config.training, TrainingOptions)
    assert read_config(path, ["--training.seed", "123"]).training == replace(config.training, seed=123)


def test_there_are_shipped_configurations() -> None:
    assert (CONFIGS / "sample.yaml").is_file()


def test_without_a_file_everything_has_its_default() -> None:
    assert read_config(None, []) == RunConfig("ctsm", "", CTSMOptions(), TrainingOptions())


def test_a_file_sets_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, "variant: small\noptions: {size: 24, fusion_sharing: all}\ntraining:\n  rate_factor: 2\n")
    config = read_config(path, [])
    assert config.variant == "small"
    assert config.options == replace(CTSMOptions(), size=24, fusion_sharing="all")
    assert config.training == replace(TrainingOptions(), rate_factor=2.0)
    assert config.changed_options() == {"size": 24, "fusion_sharing": "all"}


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "variant: a\noptions: {size: 24, depth: 8}\ntraining: {seed: 3, iterations: 70}\n")
    overrides = ["--training.seed=5", "--options.size", "32", "--variant", "b", "--training.seed", "6"]
    config = read_config(path, overrides)
    assert (config.variant, config.options.size, config.training.seed) == ("b", 32, 6)
    assert (config.options.depth, config.training.iterations) == (8, 70)


WRONG = {
    "model: nobody": "unknown model 'nobody'",
    "model: [1]": "unknown model '[1]'",
    "options: {sise: 3}": "'sise'",
    "learning_rate: 3": "'learning_rate'",
    "options: {size: abc}": "options.size is abc, not a whole number",
    "options: {size: 1.5}": "options.size is 1.5, not a whole number",
    "options: {temperature: warm}": "options.temperature is warm, not a number",
    "training: {tensorboard: 3}": "training.tensorboard is 3, not true or false",
    "variant: [1]": "variant is [1], not text",
    "options: {fusion_sharing: some}": "options.fusion_sharing is some, not one of 'separate', 'mlp_only', 'all'",
    "options: {size: 0}": "options.size is 0",
    "options: {depth: 9}": "options.depth (9)",
    "training: {seed: -1}": "training.seed is -1",
    "training: {seed: 99999999999999999999}": "training.seed is 99999999999999999999",
    "training: {batch_size: true}": "training.batch_size is True, not a whole number",
    "training: {batch_size: 0}": "training.batch_size is 0",
    "training: {rate_factor: .nan}": "training.rate_factor is nan",
    "training: {rate_factor: .inf}": "training.rate_factor is inf",
    "training: 5": "training is not a group",
    "options:": "options is not a group",
    "options: [1]": "options is not a group",
    "1: 2": "Key must be a string",
    "": "holds no settings",
    "[1, 2]": "holds no settings",
    "a: b: c": "not readable as YAML",
    "day: 2020-13-45": "not readable as YAML",
    "[" * 3000: "not readable as YAML",
    "a: &a [*a]": "run.yaml",
    "\x00": "not readable as YAML",
}


@pytest.mark.parametrize(("text", "part"), WRONG.items(), ids=[text[:30] or "empty" for text in WRONG])
def test_a_wrong_file_is_one_sentence_that_names_file_and_key(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path, text + "\n")
    with pytest.raises(CtsmError) as caught:
        read_config(path, [])
    assert_sentence(str(caught.value), f"{path}: ", part)


def assert_sentence(message: str, start: str, part: str) -> None:
    assert message.startswith(start)
    assert part in message
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message, "one sentence"


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["--model", "nobody"], "unknown model 'nobody'"),
        (["--model=nobody"], "unknown model 'nobody'"),
        (["--options.sise", "3"], "--options.sise"),
        (["--options.size", "x"], "options.size is x, not a whole number"),
        (["--options.size"], "--options.size"),
        (["--training.batch_size=0"], "training.batch_size is 0"),
        (["stray"], "stray"),
    ],
)
@pytest.mark.parametrize("with_file", [False, True])
def test_a_wrong_override_is_one_sentence(tmp_path: Path, overrides: list[str], part: str, with_file: bool) -> None:
    path = write(tmp_path, "model: ctsm\n") if with_file else None
    with pytest.raises(CtsmError) as caught:
        read_config(path, overrides)
    # a value that only makes no sense (0) is found when file and overrides are joined
    joined = "batch_size" in part and with_file
    assert_sentence(str(caught.value), f"{path}: " if joined else "command line: ", part)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CtsmError, match=r"nothing\.yaml: no such file"):
        read_config(tmp_path / "nothing.yaml", [])
    with pytest.raises(CtsmError, match="not readable as YAML"):
        read_config(tmp_path, [])
    (tmp_path / "latin.yaml").write_bytes(b"variant: \xe9\n")
    with pytest.raises(CtsmError, match=r"latin\.yaml: not readable as YAML"):
        read_config(tmp_path / "latin.yaml", [])


CONFIGURATIONS = st.builds(
    RunConfig,
    st.just("ctsm"),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8),
    st.builds(
        CTSMOptions,
        size=st.integers(1, 999),
        heads=st.just(2),
        depth=st.integers(1, 99).map(lambda half: 2 * half),
        temperature=st.floats(1e-3, 1e3),
        emotion_weight=st.floats(0, 10),
        fusion_sharing=st.sampled_from(["separate", "mlp_only", "all"]),
        emotion_pool=st.sampled_from(["attention", "sum_gate", "sum"]),
        contrastive_negatives=st.sampled_from(["both_views", "cross_view", "paper"]),
    ),
    st.builds(
        TrainingOptions,
        batch_size=st.integers(1, 999),
        rate_factor=st.floats(1e-6, 1e3),
        seed=st.integers(0, 2**63 - 1),
        tensorboard=st.booleans(),
    ),
)


@settings(max_examples=30)
@given(CONFIGURATIONS)
def test_json_round_trip(config: RunConfig) -> None:
    again = config_from_json(json.loads(json.dumps(config.to_json())), "here")
    assert again == config
    assert type(again.options) is CTSMOptions
    for group, copy in ((config.options, again.options), (config.training, again.training)):
        for field in fields(group):
            assert type(getattr(group, field.name)) is type(getattr(copy, field.name)), field.name


def change(config: RunConfig, *keys: str, value: Any) -> dict[str, Any]:
    changed = json.loads(json.dumps(config.to_json()))
    place = changed
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("keys", "value", "part"),
    [
        (("model",), "nobody", "unknown model 'nobody'"),
        (("model",), None, "'model'"),
        (("model",), ["ctsm"], "model"),
        (("variant",), None, "'variant'"),
        (("variant",), 3, "variant"),
        (("options",), None, "'options'"),
        (("options",), [], "options"),
        (("training",), 3, "training"),
        (("options", "size"), 16.5, "options.size"),
        (("options", "size"), "wide", "options.size"),
        (("options", "size"), None, "options.size"),
        (("options", "size"), True, "options.size"),
        (("options", "fusion_sharing"), "nothing", "options.fusion_sharing"),
        (("options", "from_the_future"), 1, "from_the_future"),
        (("training", "batch_size"), -2, "training.batch_size"),
        (("training", "from_the_future"), 1, "from_the_future"),
    ],
)
def test_a_configuration_of_another_version_is_refused(
    tiny_config: RunConfig, keys: tuple[str, ...], value: Any, part: str
) -> None:
    with pytest.raises(CtsmError) as caught:
        config_from_json(change(tiny_config, *keys, value=value), "dir/config.json")
    assert_sentence(str(caught.value).replace("config.json", "config"), "dir/config: ", part)
