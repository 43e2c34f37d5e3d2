"""HTML pages in one file: they open offline, ask nobody for anything, and run no script."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def html_page(title: str, body_template: str, **values: Any) -> str:
    """Render a page: the shared shell (`templates/page.html`) around one of the templates beside it.

    Every value is escaped; only `markupsafe.Markup` (as `figures.inline_svg` returns) goes in as it is.

    Args:
        title: of the page, as its heading too.
        body_template: file name of a template that extends "page.html" and fills its blocks `lead` and `body`.
        values: what the template names.
    """
    return _environment().get_template(body_template).render(title=title, **values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("ctsm.analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
