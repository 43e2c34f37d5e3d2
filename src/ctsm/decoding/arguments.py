"""The decoding options as flags of the command line, the same for every verb that replies."""

from __future__ import annotations

import re
from dataclasses import asdict, fields, replace
from typing import Any

import jsonargparse

from ctsm.decoding.options import READ_BY, SECTION, DecodingOptions, Method, Precision
from ctsm.errors import CtsmError

HELP = {
    "method": "greedy, beam search (beam) or sampling (sample)",
    "max_tokens": "length limit of a reply",
    "beam_size": "beam: unfinished replies followed at a time",
    "length_penalty": "beam: replies are ranked by log-probability / length^PENALTY",
    "n_best": "beam: replies to show, the best first",
    "temperature": "sample: below 1 prefers probable words, above 1 improbable ones",
    "top_k": "sample: draw among this many most probable words (0: all)",
    "top_p": "sample: draw among the most probable words with this probability together (1: all)",
    "no_repeat_ngram": "say no sequence of this many words twice in a reply (0: off)",
    "repetition_penalty": "factor on the log-probability of words said before in the reply (1: off)",
    "seed": "sample: makes the replies repeatable (default: new ones each time)",
    "precision": "of encoding contexts: fp32, or bf16 (faster for large batches on processors with bf16 units)",
}


def add_decoding_arguments(parser: jsonargparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Declare a flag for each field of `DecodingOptions` but those named in `without`."""
    defaults = {field.name: field.default for field in fields(DecodingOptions)}
    for name, text in HELP.items():
        if name not in without:
            flag, default = "--" + _typed(name), defaults[name]
            kind = {"method": Method, "seed": int, "precision": Precision}.get(name, type(default))
            parser.add_argument(flag, type=kind, default=default, help=text)


def decoding_options(arguments: jsonargparse.Namespace) -> DecodingOptions:
    """Read the options that `add_decoding_arguments` declared.

    Raises:
        CtsmError: a value makes no sense, or the chosen decoder does not read it.
    """
    given = {name: arguments[_flag(name)] for name in HELP if _flag(name) in arguments}
    try:
        return DecodingOptions(**given)
    except ValueError as error:
        raise CtsmError(_in_words(error, "--")) from None


def described_options(options: DecodingOptions) -> dict[str, str]:
    """Return the options by the names that `changed_option` takes, those that the method does not read left out."""
    return {
        _typed(name): str(value)
        for name, value in asdict(options).items()
        if READ_BY.get(name, options.method) == options.method
    }


def changed_option(options: DecodingOptions, name: str, text: str) -> DecodingOptions:
    """Return the options with one changed; a new method begins with the defaults of what only it reads.

    Args:
        options: the options so far.
        name: as the flag's, with or without its hyphens.
        text: the value as one types it; "none" is no seed.

    Raises:
        CtsmError: there is no such option, or the value makes no sense.
    """
    fields_by_name = {_typed(field): field for field in HELP}
    field = fields_by_name.get(name.lstrip("-").replace("_", "-"))
    if field is None:
        raise CtsmError(f"There is no option {name!r}; choose one of {', '.join(fields_by_name)}.")
    defaults = asdict(DecodingOptions())
    changes = {field: _value(field, text, defaults[field])}
    if field == "method":
        changes |= {other: defaults[other] for other, method in READ_BY.items() if method != text}
    try:
        return replace(options, **changes)
    except ValueError as error:
        raise CtsmError(_in_words(error, "")) from None


def _value(field: str, text: str, default: str | float | None) -> Any:
    """Read a typed value as the kind that the field holds; what is none stays text and is refused by the options."""
    if field == "seed":
        return None if text.lower() == "none" else _number(text, int)
    return text if isinstance(default, str) or default is None else _number(text, type(default))


def _number(text: str, kind: type[float]) -> float | str:
    try:
        return kind(text)
    except ValueError:
        return text


def _in_words(error: ValueError, prefix: str) -> str:
    """Return a message of the options with the names that people type."""
    return re.sub(SECTION + r"\.(\w+)", lambda match: prefix + _typed(match[1]), str(error)) + "."


def _typed(name: str) -> str:
    """Name of a field as one types it, without leading hyphens."""
    return _flag(name).replace("_", "-")


def _flag(name: str) -> str:
    """Name of a field's flag, with underscores."""
    return "decoder" if name == "method" else name
