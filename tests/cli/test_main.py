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


def test_a_wrong_option_is_refused_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["score", "x.txt", "--nonsense"])
    assert stop.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def test_overrides_are_set_apart_from_the_verbs_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("ctsm.cli.train.run", seen.append)
    words = ["--training.seed", "7", "c.yaml", "--data", "d", "--options.size=8", "--resume", "--out", "o"]
    assert cli.main(["train", *words]) == 0
    (parsed,) = seen
    assert parsed.overrides == ["--training.seed", "7", "--options.size=8"]
    assert (parsed.config, parsed.data, parsed.out, parsed.resume) == (Path("c.yaml"), Path("d"), Path("o"), True)
