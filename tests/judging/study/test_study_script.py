"""scripts/study.sh: a whole study into a new folder, and nothing into one that is there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Programs named ctsm and python that only write down how they were called."""
    for name in ("ctsm", "python"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> "$CALLS"\n')
        program.chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}


def study(out: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["sh", "scripts/study.sh", "A", "B", str(out)]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_the_steps(tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "new" / "folder"
    assert study(out, environment).returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[:3] for call in calls] == [
        ["ctsm", "generate", "A"],
        ["ctsm", "generate", "B"],
        ["ctsm", "judge", "create"],
        ["python", "scripts/judge_by_rule.py", f"{out}/study.db"],
        ["ctsm", "judge", "report"],
    ]
    assert out.is_dir()


@pytest.mark.parametrize("name", ["study.db", "folder"])
def test_an_earlier_study_stays(name: str, tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "folder"
    out.mkdir()
    (out / "study.db").write_text("kept")
    (out / "study.db-wal").write_text("kept too")
    done = study(tmp_path / "folder" / name if name == "study.db" else out, environment)
    assert done.returncode == 2
    assert "exists already; choose a new folder" in done.stderr
    assert not (tmp_path / "calls").exists()
    assert {path.name: path.read_text() for path in out.iterdir()} == {"study.db": "kept", "study.db-wal": "kept too"}
