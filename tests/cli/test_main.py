"""The entry point: light help, one-sentence errors, exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ctsm.cli import main as cli
from ctsm.errors import CtsmError
from ctsm.version import __version__


def test_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    for verb, line in cli.VERBS.items():
        assert verb in text
        assert line in text


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_overview_line_is_the_verbs_own_help(verb: str) -> None:
    assert import_module(f"ctsm.cli.{verb}").HELP == cli.VERBS[verb]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: ctsm {verb}" in capsys.readouterr().out


def test_every_verb_file_is_listed() -> None:
    folder = Path(cli.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "main"} == set(cli.VERBS)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from ctsm.cli.main import main; main(['--help']); import ctsm; "
        "heavy = {'torch', 'numpy', 'scipy', 'nltk', 'rich', 'jsonargparse', 'transformers', 'huggingface_hub'}; "
        "sys.exit(len(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60).returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ctsm {__version__}\n"


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("ctsm: error: unknown verb 'trian'; choose one of fetch, prepare")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CtsmError("f: wrong; mend it."), 2, "ctsm tables: error: f: wrong; mend it.\n"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 2, "ctsm tables: error: /x: the disk is full"),
        (KeyboardInterrupt(), 130, "ctsm tables: interrupted.\n"),
    ],
)
def test_errors_become_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(_arguments: object) -> None:
        raise error

    monkeypatch.setattr("ctsm.cli.tables.run", fail)
    assert cli.main(["tables", ".", "-o", "x.md"]) == code
    captured = capsys.readouterr().err
    assert captured.startswith(message)
    assert captured.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("score x.txt --nonsense", "score: error: unrecognized arguments: --nonsense; see `ctsm score --help`."),
        ("reproduce table1", "reproduce: error: --data is required; see `ctsm reproduce --help`."),
        ("train", "train: error: CONFIG, --data and --out are required; see `ctsm train --help`."),
        ("compare a", "compare: error: B is required; see `ctsm compare --help`."),
        ("reproduce --data d", "reproduce: error: target is required; see `ctsm reproduce --help`."),
        ("generate r i", "generate: error: --out is required; see `ctsm generate --help`."),
        (
            "evaluate r --data d --split all",
            "evaluate: error: argument --split: invalid choice: 'all' (choose from 'train', 'dev', 'test'); "
            "see `ctsm evaluate --help`.",
        ),
        (
            "reproduce table1 --data d --seeds 1.5",
            "reproduce: error: --seeds is 1.5, not a whole number; see `ctsm reproduce --help`.",
        ),
        (
            "prepare --vector-size x --dialogues d --out o",
            "prepare: error: --vector-size is x, not a whole number; see `ctsm prepare --help`.",
        ),
        ("bench report", "bench: error: DIR, --document and --figures are required; see `ctsm bench report --help`."),
        (
            "bench train --steps x",
            "bench: error: --steps is x, not a whole number; see `ctsm bench train --help`.",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence_with_code_2(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"ctsm {message}\n")


@pytest.mark.parametrize("words", [["bench"], ["bench", "nonsense"], ["bench", "train", "--rounds"]])
def test_wrong_arguments_of_bench_are_one_sentence_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ctsm bench: error: ")
    assert "; see `ctsm bench" in error


def test_overrides_are_set_apart_from_the_verbs_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("ctsm.cli.train.run", seen.append)
    words = ["--training.seed", "7", "c.yaml", "--data", "d", "--options.size=8", "--resume", "--out", "o"]
    assert cli.main(["train", *words]) == 0
    (parsed,) = seen
    assert parsed.overrides == ["--training.seed", "7", "--options.size=8"]
    assert (parsed.config, parsed.data, parsed.out, parsed.resume) == (Path("c.yaml"), Path("d"), Path("o"), True)
