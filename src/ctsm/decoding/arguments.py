"""The decoding options as flags of the command line, the same for every verb that replies."""

from __future__ import annotations

import re
from dataclasses import fields

import jsonargparse

from ctsm.decoding.options import SECTION, DecodingOptions, Method, Precision
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
    "precision": "of the large matrix products: fp32, or bf16 (faster on processors with bf16 units)",
}


def add_decoding_arguments(parser: jsonargparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Declare a flag for each field of `DecodingOptions` but those named in `without`."""
    defaults = {field.name: field.default for field in fields(DecodingOptions)}
    for name, text in HELP.items():
        if name not in without:
            flag, default = "--" + _flag(name).replace("_", "-"), defaults[name]
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
        message = re.sub(SECTION + r"\.(\w+)", lambda match: "--" + _flag(match[1]).replace("_", "-"), str(error))
        raise CtsmError(f"{message}.") from None


def _flag(name: str) -> str:
    """Name of a field's flag, with underscores."""
    return "decoder" if name == "method" else name
