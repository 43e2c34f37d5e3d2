"""`ctsm serve`: a model as a service."""

from __future__ import annotations

import re
from pathlib import Path

import jsonargparse

from ctsm.care import NO_CARE_HELP

LAST_PORT = 65_535
ORIGIN = re.compile(r"\*|null|(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+")
"""What browsers send as an origin: in small letters, without a path and without the scheme's usual port."""

HELP = "serve a model: an API for OpenAI's clients, the emotions it perceives, a web page"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("run", metavar="RUN", help='a run or model directory, or "user/name" on the Hugging Face Hub')
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all of this machine's")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 takes a free one")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="API keys, one a line (default: none needed)")
    parser.add_argument("--max-queue", type=int, default=256, help="requests that may wait for the model")
    parser.add_argument("--max-tokens", type=int, default=51, help="words of a reply at most")
    parser.add_argument("--max-body", type=int, default=256, metavar="KIB", help="size of a request at most, in KiB")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds until a request is given up")
    parser.add_argument("--model-name", metavar="NAME", help="the model's id (default: its system and variant)")
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this origin use the API (again for more; default: none)",
    )
    parser.add_argument("--no-care", action="store_true", help=NO_CARE_HELP)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="of the computations (default: one a core)")


def run(arguments: jsonargparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from ctsm.decoding.options import LARGEST
    from ctsm.errors import CtsmError
    from ctsm.serving.limits import Limits
    from ctsm.serving.serve import Address, read_keys, serve

    for name in ("max_queue", "max_body", "timeout"):
        if arguments[name] <= 0:
            raise CtsmError(f"--{name.replace('_', '-')} is {arguments[name]}; it must be greater than 0.")
    for name, least, most in (("port", 0, LAST_PORT), ("max_tokens", 1, LARGEST), ("threads", 0, LARGEST)):
        if not least <= arguments[name] <= most:
            value = f"--{name.replace('_', '-')} is {arguments[name]}"
            raise CtsmError(f"{value}; it must be from {least} to {most:,}.")
    for origin in arguments.allow_origin:
        if not ORIGIN.fullmatch(origin):
            form = "write scheme, name and port alone, as in https://chat.example:8080"
            raise CtsmError(f"--allow-origin is {origin!r}; {form}.")
    serve(
        arguments.run,
        Address(arguments.host, arguments.port),
        Limits(
            max_queue=arguments.max_queue,
            max_tokens=arguments.max_tokens,
            max_body=arguments.max_body * 1024,
            timeout=arguments.timeout,
            care=not arguments.no_care,
        ),
        keys=read_keys(arguments.api_key_file) if arguments.api_key_file else (),
        origins=arguments.allow_origin,
        name=arguments.model_name,
        device=arguments.device,
        threads=arguments.threads,
    )
