"""docs/judging.md names what there is: every option, every key, and the tests' own numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ctsm.cli.main import main
from ctsm.judging import design, store

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "judging.md").read_text(encoding="utf-8")
WEB = ROOT / "src" / "ctsm" / "judging" / "web"


@pytest.mark.parametrize("verb", ["create", "serve", "links", "close"])
def test_every_option_is_named(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["judge", verb, "--help"])
    options = set(re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    assert options or verb == "close"
    assert f"ctsm judge {verb}" in PAGE
    assert options <= set(re.findall(r"--[\w-]+", PAGE))


def test_the_keys_are_those_of_the_page() -> None:
    shown = re.findall(r"<kbd>(\w+)</kbd>", (WEB / "judge.html").read_text(encoding="utf-8"))
    table = PAGE[PAGE.index("| key |") : PAGE.index("The guidelines have a switch")]
    assert re.findall(r"`(\w+)`", table) == shown


def test_the_numbers_of_the_design() -> None:
    assert (design.REAL_PER_CATCH, design.FEWEST_CATCH, design.CANDIDATES) == (10, 2, 16)
    assert "one for ten real comparisons, at least two" in PAGE
    assert "of 16 candidates" in PAGE
    assert f"at most {design.MOST_ANNOTATORS:,} annotators" in PAGE
    assert f"a random token of {8 * store.TOKEN_BYTES} bits" in PAGE


@pytest.mark.parametrize("name", ["judge.html", "admin.html", "judge.js", "admin.js", "judge.css", "icon.svg"])
def test_the_pages_hold_no_address_and_nothing_inline(name: str) -> None:
    text = (WEB / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[\w-]+\.\w|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
