"""Figures in the house style: the same figure always gives the same file, its text stays text, grey prints show all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ctsm.errors import MissingExtraError
from ctsm.files import atomic_file

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

RC: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ctsm",  # the same figure gives the same file
    "font.family": "sans-serif",
    "font.size": 11,
}
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def require_matplotlib() -> None:
    """Check that figures can be drawn, before anything long is computed for them.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("plot", "drawing figures") from None


@contextmanager
def house_style() -> Iterator[None]:
    """Make figures that are created in the block look like all others.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib as mpl

    with mpl.rc_context(RC):
        yield


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format of the file's suffix (".svg", ".png", ...)."""
    with atomic_file(path, "wb") as stream:
        _write(figure, stream, path.suffix.removeprefix("."))


def inline_svg(figure: Figure, label: str, name: str) -> Markup:
    """Return a figure as an <svg> element for an HTML page.

    It has no background; it shrinks with its place, and grows no larger than it was drawn.

    Args:
        figure: what to show.
        label: what a screen reader says instead.
        name: begins every id in the element; must differ between the figures of one page.
    """
    from markupsafe import Markup

    stream = BytesIO()
    _write(figure, stream, "svg", transparent=True)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(stream.getvalue())
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        for attribute, value in element.attrib.items():
            if attribute == "id":
                element.set(attribute, f"{name}-{value}")
            elif "#" in value:
                prefixed = value.replace("url(#", f"url(#{name}-")
                element.set(attribute, f"#{name}-{value[1:]}" if value.startswith("#") else prefixed)
    width = root.attrib.pop("width")  # the view box keeps the proportions
    del root.attrib["height"]
    root.attrib |= {"role": "img", "aria-label": label, "style": f"max-width: {width}"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _write(figure: Figure, stream: Any, kind: str, **options: Any) -> None:
    import matplotlib as mpl

    metadata = {"Date": None} if kind == "svg" else None
    with mpl.rc_context(RC), warnings.catch_warnings():
        # A sign that the font lacks is drawn as a box; a reader of the figure sees that.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format=kind, metadata=metadata, **options)
