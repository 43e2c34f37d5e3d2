"""`ctsm fetch`: terms first, then the download, then what `ctsm prepare` needs, and a record of it all.

`fetched.json` in the target folder remembers for each resource its address, SHA-256, time, accepted terms and the
files made from it. A later run verifies those files and has nothing to do; the hash of a first download, when the
publisher gives none, is the one every later download must have.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctsm.errors import CtsmError
from ctsm.files import read_json, sha256_of, write_json
from ctsm.resources.catalogue import CATALOGUE, Resource, describe, find, mirrored
from ctsm.resources.comet import convert_archive
from ctsm.resources.download import Patience, download
from ctsm.resources.progress import Reporter, reporter_for_terminal
from ctsm.resources.unpack import join_members

MANIFEST = "fetched.json"
MANIFEST_VERSION = 1
SIGNATURES = {".zip": b"PK\x03\x04", ".gz": b"\x1f\x8b"}


def list_resources() -> str:
    """Return the whole catalogue as text."""
    return "\n\n".join(describe(resource) for resource in CATALOGUE.values())


def fetch(
    names: Iterable[str],
    directory: Path,
    *,
    accept_terms: bool = False,
    mirror: str | None = None,
    patience: Patience | None = None,
) -> list[Path]:
    """Bring the named resources into `directory` and print where each one is.

    Args:
        names: names from the catalogue.
        directory: the folder to fill; made when missing.
        accept_terms: the user has accepted the terms of all of them; otherwise a terminal is asked for each.
        mirror: another server (and path prefix) to download from.
        patience: attempts and time limits of the downloads.

    Returns:
        the path of each resource for `ctsm prepare`, in the order of `names`.

    Raises:
        CtsmError: terms not accepted, or anything that kept a resource from arriving whole.
    """
    resources = find(names)
    addresses = {resource.name: mirrored(resource.address, mirror) for resource in resources}
    if directory.exists() and not directory.is_dir():
        raise CtsmError(f"{directory}: is a file, but --to needs a folder; give another path.")
    directory.mkdir(parents=True, exist_ok=True)
    with _only_one(directory):
        records = _read_records(directory)
        missing = [resource for resource in resources if not _is_there(resource, directory, records)]
        _ask(missing, accept_terms)
        accepted = _now()
        for resource in resources:
            if resource in missing:
                record = records.setdefault(resource.name, {"files": {}})
                record |= {"terms": resource.terms.licence, "terms_accepted_at": accepted}
                _get(resource, addresses[resource.name], directory, records, patience)
                print(_where(resource, directory, "fetched"))
            else:
                print(_where(resource, directory, "already there, verified"))
    return [directory / resource.product for resource in resources]


def already_fetched(names: Iterable[str], directory: Path) -> set[str]:
    """Return those of the named resources that are there by the record in `directory`; no file is verified.

    Raises:
        CtsmError: a name is not in the catalogue, or the record cannot be read.
    """
    records = _read_records(directory)
    files = {resource.name: records.get(resource.name, {}).get("files", {}) for resource in find(names)}
    return {name for name, made in files.items() if made and all((directory / file).exists() for file in made)}


def _get(
    resource: Resource, address: str, directory: Path, records: dict[str, dict[str, Any]], patience: Patience | None
) -> None:
    """Download a resource unless its archive is there, make its product, and write both down."""
    archive, product = directory / resource.file, directory / resource.product
    record = records[resource.name]
    if resource.make != "keep" and product.exists() and "sha256" not in record:
        raise CtsmError(
            f"{product}: is there, but `ctsm fetch` did not make it; move it away or choose another folder with --to."
        )
    reporter = reporter_for_terminal()
    expected = resource.sha256 or record.get("sha256")
    if archive.exists():
        reporter.note(f"{archive}: already downloaded")
        _require_hash(archive, expected)
        found = expected or sha256_of(archive)
    else:
        signature = SIGNATURES[archive.suffix]
        found = download(address, archive, reporter, sha256=expected, signature=signature, patience=patience)
        record |= {"address": address, "fetched_at": _now()}
    record |= {"file": resource.file, "sha256": found, "bytes": archive.stat().st_size}
    record["sha256_published"] = resource.sha256 is not None
    _write_records(directory, records)
    _make(resource, archive, product, reporter)
    record["files"] = {str(path.relative_to(directory)): sha256_of(path) for path in _files_of(product)}
    _write_records(directory, records)


def _make(resource: Resource, archive: Path, product: Path, reporter: Reporter) -> None:
    """Turn the download into the file or folder that other commands read."""
    if resource.make == "join":
        join_members(archive, resource.members, product, resource.unpacked_limit)
    elif resource.make == "convert":
        reporter.note(f"{archive}: converting the checkpoint to safetensors (once; takes about 5 GB of memory)")
        convert_archive(archive, product, resource.unpacked_limit)


def _is_there(resource: Resource, directory: Path, records: dict[str, dict[str, Any]]) -> bool:
    """Tell whether every file recorded for a resource is present, after verifying those that are."""
    files = records.get(resource.name, {}).get("files", {})
    present = [name for name in files if (directory / name).exists()]
    for name in present:
        _require_hash(directory / name, files[name])
    return bool(files) and len(present) == len(files)


def _require_hash(path: Path, expected: str | None) -> None:
    """Refuse a file that is not the one that was published or recorded."""
    found = expected if expected is None else sha256_of(path)
    if found != expected:
        raise CtsmError(
            f"{path}: has SHA-256 {found}, but {expected} is expected; move it away and run the same command again."
        )


def _ask(resources: list[Resource], accept_terms: bool) -> None:
    """Show the terms of every resource and make sure that the user accepts them."""
    interactive = sys.stdin is not None and sys.stdin.isatty()
    for resource in resources:
        print(describe(resource), flush=True)
        if accept_terms:
            continue
        if not interactive:
            raise CtsmError(
                f"The terms of {resource.name} are not accepted: read them (also with --list) and add --accept-terms."
            )
        try:
            answer = input(f"Do you accept the terms of {resource.name}? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in {"y", "yes"}:
            raise CtsmError(f"The terms of {resource.name} are not accepted, so nothing was downloaded.")


def _where(resource: Resource, directory: Path, how: str) -> str:
    """Return the closing line about a resource."""
    return f"{resource.name}: {how}: ctsm prepare {resource.option.format(directory / resource.product)}"


def _files_of(product: Path) -> list[Path]:
    """Return the product itself, or every file in it."""
    return [product] if product.is_file() else sorted(path for path in product.rglob("*") if path.is_file())


def _read_records(directory: Path) -> dict[str, dict[str, Any]]:
    """Return what `fetched.json` says of each resource; an empty table when there is none."""
    path = directory / MANIFEST
    if not path.exists():
        return {}
    content = read_json(path, "the record of what was fetched")
    records = content.get("resources") if isinstance(content, dict) else None
    sound = (
        isinstance(records, dict)
        and content.get("version") == MANIFEST_VERSION
        and all(isinstance(record, dict) and isinstance(record.get("files"), dict) for record in records.values())
    )
    if not sound or records is None:
        raise CtsmError(
            f"{path}: is not a record of version {MANIFEST_VERSION}; move it away and run the command again."
        )
    return dict(records)


def _write_records(directory: Path, records: dict[str, dict[str, Any]]) -> None:
    write_json(directory / MANIFEST, {"version": MANIFEST_VERSION, "resources": records})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Keep a second `ctsm fetch` out of the same folder; the lock goes with the process, however it ends."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CtsmError(f"{directory}: another `ctsm fetch` is filling this folder; wait until it ends.") from None
        except OSError:
            pass  # a network file system that cannot lock folders: two runs at once stay the user's affair
        yield
    finally:
        os.close(handle)
