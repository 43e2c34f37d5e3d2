"""Figures give the same file each time, and several of them can stand in one page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ctsm.errors import MissingExtraError
from ctsm.figures import house_style, inline_svg, require_matplotlib, save_figure

pytest.importorskip("matplotlib")


def draw(label: str = "steps"):
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3, 2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([1, 2, 3], [3, 1, 2], marker="o")
        axes.set_xlabel(label)
    return figure


def test_the_same_figure_gives_the_same_file_in_the_format_of_its_name(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg", "one.png"):
        save_figure(draw(), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    texts = [one.text for one in ElementTree.parse(tmp_path / "one.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert "steps" in texts, "text stays text"


def test_figures_in_one_page_share_no_id_and_lose_no_reference() -> None:
    elements = [inline_svg(draw(f'id="{name}" #1 <&>'), 'a "label" & <more>', name) for name in ("first", "second")]
    ids = [re.findall(r' id="([^"]+)"', element) for element in elements]
    assert ids[0] and not set(ids[0]) & set(ids[1])
    for element, own in zip(elements, ids, strict=True):
        references = re.findall(r'(?:href="|url\()#([^")]+)', element)
        assert references and set(references) <= set(own)
        root = ElementTree.fromstring(element)
        assert root.get("role") == "img" and root.get("aria-label") == 'a "label" & <more>'
        assert root.get("viewBox") == "0 0 216 144" and root.get("width") is None
        name = own[0].split("-")[0]
        assert f'id="{name}" #1 <&>' in [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ctsm\[plot\]'"):
        require_matplotlib()
