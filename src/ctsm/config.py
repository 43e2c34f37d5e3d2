"""The dataclasses behind the YAML files in configs/."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ctsm.errors import CtsmError
from ctsm.models import options_class
from ctsm.options import check_options

DEFAULT_MODEL = "ctsm"
COMMAND_LINE = "command line"

# jsonargparse's words for a value of the wrong type, and plainer ones.
_WRONG_TYPE = re.compile(r'Parser key "([^"]+)": Expected an? (.+?)\. Got value: (.*)')
_TYPE_WORDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
}


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained.

    Attributes:
        batch_size: examples in a batch.
        iterations: optimiser steps at most.
        warmup: steps of rising learning rate in the Noam schedule.
        rate_factor: factor of the Noam schedule.
        evaluate_every: steps between evaluations on dev.
        evaluate_from: first step whose evaluation may be the best one and counts for patience.
        patience: stop after this many evaluations in a row without improvement.
        checkpoint_every: steps between checkpoints (besides those at evaluations).
        log_every: steps between log lines.
        pool: batches that are sorted by length together; larger is faster, smaller is more random.
        seed: of the initial values and the order of examples.
        precision: fp32, or bf16 for the large matrix products of the training steps (dev is always scored in fp32).
        compile: compile the loss for each shape of batch (`torch.compile`); on a GPU, steps are recorded without it.
        tensorboard: whether to write TensorBoard logs beside the JSONL log.
    """

    batch_size: int = 16
    iterations: int = 20_000
    warmup: int = 8_000
    rate_factor: float = 1.0
    evaluate_every: int = 1_000
    evaluate_from: int = 1_000
    patience: int = 5
    checkpoint_every: int = 500
    log_every: int = 50
    pool: int = 100
    seed: int = 42
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        check_options(self, "training")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("seed", "precision", "compile", "tensorboard") and not 0 < value < math.inf:
                raise ValueError(f"training.{field.name} is {value}; it must be greater than 0 and finite")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"training.seed is {self.seed}; it must be at least 0 and below 2^63")


@dataclass(frozen=True)
class RunConfig:
    """One training run: a model, its options and how it is trained.

    Attributes:
        model: name of the system.
        variant: name of the ablation or switch that is studied; empty for the full model.
        options: the model's own options dataclass.
        training: how it is trained.
    """

    model: str
    variant: str
    options: Any
    training: TrainingOptions

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return asdict(self)

    def changed_options(self) -> dict[str, Any]:
        """Return the model options that differ from their defaults."""
        default = type(self.options)()
        names = [field.name for field in fields(self.options)]
        return {
            name: getattr(self.options, name) for name in names if getattr(self.options, name) != getattr(default, name)
        }


def read_config(path: Path | None, overrides: list[str]) -> RunConfig:
    """Read a YAML configuration and apply command-line overrides such as `--training.seed 1`, which win.

    Raises:
        CtsmError: the file is missing or not YAML, or names an unknown model, option or value.
    """
    return _parse(_read_yaml(path) if path else {}, overrides, str(path or COMMAND_LINE), "see configs/ for examples")


def config_from_json(value: dict[str, Any], where: str) -> RunConfig:
    """Rebuild a configuration that `RunConfig.to_json` wrote.

    Raises:
        CtsmError: a key is missing, unknown or of another type, as in a file of another version.
    """
    missing = [field.name for field in fields(RunConfig) if value.get(field.name) is None]
    if missing:
        raise CtsmError(f"{where}: the configuration lacks {missing[0]!r}; train or download it again.")
    return _parse(value, [], where, "train or download it again")


def _parse(values: dict[str, Any], overrides: list[str], source: str, remedy: str) -> RunConfig:
    """Check settings against the model's options and the training options; errors name `source` and `remedy`."""
    from jsonargparse import ArgumentParser

    named = _named_model(overrides)
    with _one_sentence(COMMAND_LINE if named else source, remedy):
        options = options_class(named or str(values.get("model", DEFAULT_MODEL)))
    parser = ArgumentParser(exit_on_error=False, prog="ctsm train")
    parser.add_argument("--model", type=str, default=DEFAULT_MODEL)
    parser.add_argument("--variant", type=str, default="")
    parser.add_class_arguments(options, "options")
    parser.add_class_arguments(TrainingOptions, "training")
    with _one_sentence(source, remedy):
        for group in ("options", "training"):
            if not isinstance(values.get(group, {}), dict):
                raise ValueError(f"{group} is not a group of settings, one a line below it")
            for key, value in values.get(group, {}).items():
                if value is None:
                    raise ValueError(f"{group}.{key} has no value")
        parsed = parser.parse_object(values) if values else parser.get_defaults()
    with _one_sentence(COMMAND_LINE, remedy):
        parsed = parser.parse_args(overrides, namespace=parsed)
    with _one_sentence(source, remedy):
        return RunConfig(
            parsed.model, parsed.variant, options(**vars(parsed.options)), TrainingOptions(**vars(parsed.training))
        )


def _named_model(overrides: list[str]) -> str | None:
    """Return the model that `--model NAME` or `--model=NAME` names last."""
    named = None
    for position, word in enumerate(overrides):
        flag, equals, value = word.partition("=")
        if flag == "--model":
            named = value if equals else next(iter(overrides[position + 1 :]), None)
    return named


@contextmanager
def _one_sentence(source: str, remedy: str) -> Iterator[None]:
    """Turn what is wrong with a setting into one sentence that says where it was given."""
    from jsonargparse import ArgumentError

    try:
        yield
    except CtsmError as error:
        raise CtsmError(f"{source}: {error}") from None
    except (ArgumentError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CtsmError(f"{source}: {in_plain_words(str(error))}; {remedy}.") from None


def in_plain_words(message: str, named: Callable[[str], str] = str) -> str:
    """Return what jsonargparse says of a wrong value on one line and without Python's types; `named` shows its key."""
    sentence = " ".join(message.split()).rstrip(".")
    if match := _WRONG_TYPE.fullmatch(sentence):
        key, expected, found = match.groups()
        sentence = f"{named(key)} is {found}, not {_TYPE_WORDS.get(expected, expected)}"
        sentence = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", sentence)
    return sentence


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CtsmError(
            f"{path}: no such file (the configuration); see configs/ for the ones that come along."
        ) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CtsmError(f"{path}: not readable as YAML ({' '.join(str(error).split())}); mend it.") from None
    if not isinstance(value, dict):
        raise CtsmError(f"{path}: holds no settings; write `model: ctsm` and see configs/ for examples.")
    return value
