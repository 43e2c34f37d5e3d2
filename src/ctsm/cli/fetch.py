"""`ctsm fetch`: download the published resources."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

HELP = "download data sets, lexicons, vectors and models from their publishers"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "resources",
        nargs="*",
        metavar="RESOURCE",
        help="empatheticdialogues, glove, nrc-vad, emolex, atomic, conceptnet or comet (see --list)",
    )
    parser.add_argument("--to", metavar="DIR", default="data", help="the folder to put them in")
    parser.add_argument(
        "--accept-terms", action="store_true", help="accept the terms of every resource named, without being asked"
    )
    parser.add_argument("--list", action="store_true", help="show every resource with its address, size and terms")
    parser.add_argument(
        "--mirror", metavar="URL", default=None, help="download from this server instead, under the same paths"
    )


def run(arguments: jsonargparse.Namespace) -> None:
    """Show the catalogue, or fetch what was named."""
    from ctsm.resources.fetch import fetch, list_resources

    if arguments.list:
        print(list_resources())
    else:
        fetch(
            arguments.resources,
            Path(arguments.to),
            accept_terms=arguments.accept_terms,
            mirror=arguments.mirror,
        )
