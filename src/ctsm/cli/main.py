"""The entry point: finds the verb, turns errors into one sentence. Help must not import anything heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from ctsm.errors import CtsmError
from ctsm.files import describe_os_error
from ctsm.version import __version__

# The verbs in the order of the pipeline; a test keeps these lines equal to each verb's HELP.
VERBS = {
    "fetch": "download data sets, lexicons, vectors and models from their publishers",
    "prepare": "make a dataset ready for training from dialogues, a lexicon, vectors and inferences",
    "train": "train a model; --resume continues an interrupted run exactly",
    "evaluate": "score a model on a split and decode its replies",
    "score": "score a file of replies: Dist-1/2, length, distinct replies, and BLEU-4 where references are given",
    "compare": "test whether systems differ: paired, over conversations, corrected for the number of tests",
    "tables": "generate the result tables (Markdown) from a folder of JSON records, beside the paper's rows",
    "reproduce": "train, evaluate and tabulate every missing row of a table of the paper; run it again to go on",
    "cases": "put the replies and perceived emotions of several runs to the same contexts side by side",
    "models": "list the systems with their parameters, papers and whether they were measured",
    "explain": "show the trait and state emotions of each word of a text, and what the reply rests on, as a figure",
    "polarity": "count the words whose trait and state polarity disagree (section 5.4), under every reading of it",
    "generate": "reply to conversations in a JSONL file",
    "chat": "talk to a model in the terminal",
    "serve": "serve a model: an API for OpenAI's clients, the emotions it perceives, a web page",
    "judge": "let people compare two systems' replies: make a study, serve it, report what they said",
    "bench": "measure training, decoding, replies and start-up against a plain path and the machine's limit",
}

COMPUTING = ("train", "evaluate", "reproduce", "bench")
"""Verbs that do nothing but compute, and then end."""

INTERRUPTED = 130
USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a user's error, 130 for an interrupt."""
    # A training step has thousands of short parallel loops. Threads that sleep between them wake up too late, and by
    # default they spin so long that they are in the way of others. OpenMP reads this when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    # oneDNN compiles a kernel for every shape of a bf16 product. A training run meets some thousands, and the thousand
    # that are kept by default push each other out.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    # PyTorch then asks for huge pages for large buffers; see ctsm.memory, which asks for them for the heap.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"ctsm {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        print(f"ctsm: error: unknown verb {verb!r}; choose one of {', '.join(VERBS)}.", file=sys.stderr)
        return USER_ERROR
    try:
        code = _run(verb, rest)
        sys.stdout.flush()
    except CtsmError as error:
        print(f"ctsm {verb}: error: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody to tell
        return 0
    except OSError as error:
        print(f"ctsm {verb}: error: {describe_os_error(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"ctsm {verb}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    return code


def _run(verb: str, words: list[str]) -> int:
    """Parse a verb's arguments and run it; a verb returns None or an exit code."""
    from ctsm.parser import Parser

    if verb in COMPUTING:
        from ctsm.memory import prepare_for_computing

        prepare_for_computing()
    module = import_module(f"ctsm.cli.{verb}")
    words, overrides = _split_overrides(module, words)
    parser = Parser(prog=f"ctsm {verb}", description=module.HELP, epilog=getattr(module, "EPILOG", None))
    module.add_arguments(parser)
    parsed = parser.parse_args(words)
    if overrides is not None:
        parsed.overrides = overrides
    code: int | None = module.run(parsed)
    return code or 0


def _split_overrides(module: ModuleType, words: list[str]) -> tuple[list[str], list[str] | None]:
    """Set configuration overrides apart: a verb that takes them lists their prefixes in OVERRIDES."""
    prefixes: tuple[str, ...] | None = getattr(module, "OVERRIDES", None)
    if prefixes is None:
        return words, None
    own, overrides = list[str](), list[str]()
    position = 0
    while position < len(words):
        word = words[position]
        if word.startswith(prefixes):
            takes_next = "=" not in word
            overrides.extend(words[position : position + 1 + takes_next])
            position += 1 + takes_next
        else:
            own.append(word)
            position += 1
    return own, overrides


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: ctsm VERB ...",
            "",
            "Empathetic response generation that perceives trait and state emotions.",
            "",
            *lines,
            "",
            "`ctsm VERB --help` explains a verb; `ctsm --version` prints the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
