"""The parser of the command line: jsonargparse's, with wrong arguments told in one sentence."""

from __future__ import annotations

from argparse import Action
from typing import NoReturn

from jsonargparse import ArgumentParser

from ctsm.errors import CtsmError

REQUIRED = "the following arguments are required: "


class Parser(ArgumentParser):
    """Raises what is wrong instead of printing the usage and leaving."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message, with the arguments named as one types them.

        Raises:
            CtsmError: always.
        """
        from ctsm.config import in_plain_words

        parser: ArgumentParser = getattr(ex, "subcommand_parser", None) or self
        if message.startswith(REQUIRED):
            keys = message.removeprefix(REQUIRED).split(", ")
            parser, names = _owner(self, keys[0]), [_typed(_owner(self, key), key) for key in keys]
            listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
            sentence = f"{listed} {'are' if len(names) > 1 else 'is'} required"
        else:
            sentence = in_plain_words(message, lambda key: _typed(parser, key))
        raise CtsmError(f"{sentence}; see `{parser.prog.replace(' [options]', '')} --help`.") from None


def _owner(parser: ArgumentParser, key: str) -> ArgumentParser:
    """Return the parser of a key's last part: "report.document" belongs to the parser of `report`."""
    for action in parser._actions:
        verb, dot, rest = key.partition(".")
        if dot and isinstance(action.choices, dict) and verb in action.choices:
            return _owner(action.choices[verb], rest)
    return parser


def _typed(parser: ArgumentParser, key: str) -> str:
    """Return what stands for an argument in the help: its flag, or the placeholder of one without."""
    last = key.rpartition(".")[2]
    found: Action | None = next((action for action in parser._actions if action.dest in (key, last)), None)
    if found is None:
        return key
    return found.option_strings[-1] if found.option_strings else str(found.metavar or found.dest)
