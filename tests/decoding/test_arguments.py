"""The decoding options as flags."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from jsonargparse import ArgumentParser

from ctsm.decoding.arguments import add_decoding_arguments, changed_option, decoding_options, described_options
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError


def parse(*words: str, without: tuple[str, ...] = ()) -> DecodingOptions:
    parser = ArgumentParser(prog="x")
    add_decoding_arguments(parser, without)
    return decoding_options(parser.parse_args(list(words)))


def test_without_flags_the_defaults_hold() -> None:
    assert parse() == DecodingOptions()
    assert parse(without=("n_best",)) == DecodingOptions()


def test_every_field_has_its_flag() -> None:
    beam = ["--decoder", "beam", "--beam-size", "7", "--length-penalty", "0.5", "--n-best", "3", "--max-tokens", "9"]
    sample = ["--decoder=sample", "--temperature", "0.7", "--top-k", "40", "--top-p", "0.9", "--seed", "12"]
    rules = ["--no-repeat-ngram", "3", "--repetition-penalty", "1.2", "--precision", "bf16"]
    assert parse(*beam) == DecodingOptions(method="beam", beam_size=7, length_penalty=0.5, n_best=3, max_tokens=9)
    expected = DecodingOptions(
        method="sample",
        temperature=0.7,
        top_k=40,
        top_p=0.9,
        seed=12,
        no_repeat_ngram=3,
        repetition_penalty=1.2,
        precision="bf16",
    )
    assert parse(*sample, *rules) == expected
    flags = {word.split("=")[0] for word in [*beam, *sample, *rules] if word.startswith("--")}
    assert flags == {"--" + field.name.replace("_", "-") for field in fields(DecodingOptions)} - {"--method"} | {
        "--decoder"
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-tokens", "0"], "--max-tokens is 0; it must be from 1 to 1,000."),
        (["--decoder", "beam", "--n-best", "6"], "--n-best is 6; it must be from 1 to --beam-size (5)."),
        (
            ["--top-p", "0.9"],
            "--top-p is 0.9, which only the method sample reads; set --decoder to sample, or leave --top-p out.",
        ),
        (
            ["--decoder", "sample", "--temperature", "0"],
            "--temperature is 0.0; it must be greater than 0 (for 0 set --decoder to greedy).",
        ),
    ],
)
def test_a_senseless_value_is_one_sentence_that_names_the_flag(words: list[str], message: str) -> None:
    with pytest.raises(CtsmError) as refusal:
        parse(*words)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "words",
    [["--decoder", "best"], ["--beam-size", "2.5"], ["--top-p", "nan"], ["--seed", "today"], ["--precision", "fp16"]],
)
def test_a_value_of_the_wrong_kind_ends_with_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*words)
    assert stop.value.code == 2
    assert words[0][2:].replace("-", "_") in capsys.readouterr().err


def test_every_option_can_be_changed_to_what_its_flag_sets() -> None:
    words = {
        "decoder": "sample",
        "max-tokens": "9",
        "temperature": "0.7",
        "top-k": "40",
        "top-p": "0.9",
        "no-repeat-ngram": "3",
        "repetition-penalty": "1.2",
        "seed": "0",
        "precision": "bf16",
    }
    options = DecodingOptions()
    for name, text in words.items():
        options = changed_option(options, name, text)
    assert options == parse(*(word for name, text in words.items() for word in (f"--{name}", text)))
    assert described_options(options) == {**words, "max-tokens": "9"}
    assert changed_option(options, "--seed", "none").seed is None


def test_a_new_method_begins_with_the_defaults_of_its_own_settings() -> None:
    sampling = DecodingOptions(method="sample", temperature=0.5, top_k=3, seed=2, max_tokens=7)
    beam = changed_option(sampling, "decoder", "beam")
    assert beam == DecodingOptions(method="beam", max_tokens=7)
    assert changed_option(replace(beam, beam_size=7), "decoder", "beam") == replace(beam, beam_size=7)
    assert changed_option(replace(beam, beam_size=7), "decoder", "sample") == DecodingOptions("sample", max_tokens=7)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n_best", "2", "n-best is 2, which only the method beam reads; set decoder to beam, or leave n-best out."),
        ("seed", "soon", "seed is soon; it must be a whole number from 0 to 2^63 - 1."),
        ("temperature", "nan", "temperature is nan; it must be a finite number."),
        ("method", "beam", "There is no option 'method'; choose one of decoder, max-tokens,"),
    ],
)
def test_a_senseless_change_is_one_sentence(name: str, text: str, message: str) -> None:
    with pytest.raises(CtsmError) as refusal:
        changed_option(DecodingOptions(), name, text)
    assert str(refusal.value).startswith(message)
