"""The files of the page, as they are and as they are served."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from ctsm.serving.api.app import PAGE

FILES = sorted(PAGE.iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".js": "javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def test_every_file_is_served_with_strict_headers(running: Any) -> None:
    assert {file.suffix for file in FILES} == set(TYPES)
    for file in FILES:
        answer = httpx.get(f"{running[1]}/{'' if file.name == 'index.html' else file.name}")
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        assert TYPES[file.suffix] in answer.headers["content-type"]
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_names_another_site_or_makes_markup_of_text(file: Path) -> None:
    content = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "//" not in re.sub(r"(?m)(^|\s)// .*$", "", content)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|@import", content)
    assert content.count("\n") <= 450


class Inline(HTMLParser):
    """Collects what a strict policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        if tag == "style" or (tag == "script" and "src" not in names) or "style" in names:
            self.found.append(tag)
        self.found += [name for name in names if name.startswith("on")]


def test_nothing_is_inline() -> None:
    parser = Inline()
    parser.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    assert parser.found == []
