"""`ctsm prepare`: make a dataset ready for training."""

from __future__ import annotations

import sys
from pathlib import Path

import jsonargparse

HELP = "make a dataset ready for training from dialogues, a lexicon, vectors and inferences"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument(
        "--dialogues",
        required=True,
        metavar="ARCHIVE_OR_DIR",
        help="EmpatheticDialogues archive, folder of its CSVs, JSONL file or folder; `sample` for the built-in corpus",
    )
    parser.add_argument("--vad", metavar="F", help="NRC-VAD v1 lexicon; `sample` for the built-in one")
    parser.add_argument(
        "--vectors", type=Path, metavar="F", help="word vectors in GloVe's text format (.txt, .gz, .zip)"
    )
    parser.add_argument(
        "--vector-size", type=int, metavar="N", help="width of the vectors (default: the file's; 300 without a file)"
    )
    parser.add_argument(
        "--inferences",
        default="none",
        metavar="BACKEND[:F]",
        help="comet[:DIR], atomic:FILE (atomic:sample), file:FILE or none",
    )
    parser.add_argument(
        "--inferences-cache",
        type=Path,
        metavar="F",
        help="keep inferences in this file as they are made, so that an interrupted run goes on (for comet)",
    )
    parser.add_argument(
        "--vocabulary",
        choices=["all", "train"],
        default="all",
        help="words of all splits and fields, as the papers do, or of the training dialogues only",
    )
    parser.add_argument(
        "--emotion-words", metavar="F", help="NRC EmoLex, word level, for EmpDG; `sample` for the built-in one"
    )
    parser.add_argument(
        "--adjectives", action="store_true", help="adjectives are emotion words too (needs nltk's tagger data)"
    )
    parser.add_argument(
        "--concepts", metavar="F", help="ConceptNet's assertions, for KEMP and CASE; `sample` for the built-in ones"
    )
    parser.add_argument(
        "--feedback", action="store_true", help="keep the speaker's next turn of the training examples, for EmpDG"
    )
    parser.add_argument(
        "--cognition", action="store_true", help="infer for each sentence of the last utterance too, for CASE"
    )
    parser.add_argument("--seed", type=int, default=42, help="of the vectors of words that have none")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write or replace")


def run(arguments: jsonargparse.Namespace) -> None:
    """Prepare, saying what is being done."""
    from ctsm.corpus.prepare import PrepareOptions, prepare

    values = {name: value for name, value in vars(arguments).items() if name in PrepareOptions.__dataclass_fields__}
    manifest = prepare(
        PrepareOptions(**values), arguments.out, lambda message: print(f"{message} ...", file=sys.stderr)
    )
    counts = ", ".join(f"{split} {count['examples']:,}" for split, count in manifest["counts"].items())
    print(f"{arguments.out}: {counts} examples, {manifest['vocabulary']['size']:,} words")
