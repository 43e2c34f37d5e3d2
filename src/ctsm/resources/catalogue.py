"""What `ctsm fetch` can get: addresses, sizes, terms, and what each resource is for.

None of the addresses has been checked by the project (`Resource.checked` is False for all of them): they are as found
in public code, and every listing says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from ctsm.errors import CtsmError

MEGABYTE = 10**6


@dataclass(frozen=True)
class Terms:
    """The conditions a resource comes with, in our own words; the publisher's page is what counts."""

    licence: str
    summary: str
    page: str


@dataclass(frozen=True)
class Resource:
    """One thing to download.

    Attributes:
        name: what the user types.
        title: the name people know it by, with its source.
        address: where the publisher keeps it.
        file: the name of the downloaded file in the target folder.
        terms: the conditions of use.
        about_bytes: roughly how large the download is, or None when that is unknown.
        sha256: the published hash of the download, or None when that is unknown.
        product: the file or folder in the target folder that other commands read (`file` itself when nothing is
            unpacked).
        make: how `product` is made: "keep" the download, "join" the `members` of the zip archive into one text file,
            or "convert" COMET's checkpoint.
        members: base names of the zip members to use, in order.
        unpacked_limit: bytes the members may have together; a larger archive is refused as a zip bomb.
        option: the option of `ctsm prepare` that takes `product`, with {} for the path.
        checked: whether the project has seen the address deliver the right file.
    """

    name: str
    title: str
    address: str
    file: str
    terms: Terms
    product: str
    option: str
    about_bytes: int | None = None
    sha256: str | None = None
    make: Literal["keep", "join", "convert"] = "keep"
    members: tuple[str, ...] = ()
    unpacked_limit: int = 0
    checked: bool = False


_NRC_SUMMARY = (
    "Free for research and teaching, with credit to the authors. Do not pass it on, in whole or in part; commercial "
    "use needs a licence from the publisher."
)

CATALOGUE: dict[str, Resource] = {
    resource.name: resource
    for resource in (
        Resource(
            name="empatheticdialogues",
            title="EmpatheticDialogues (Rashkin et al. 2019)",
            address="https://dl.fbaipublicfiles.com/parlai/empatheticdialogues/empatheticdialogues.tar.gz",
            file="empatheticdialogues.tar.gz",
            product="empatheticdialogues.tar.gz",
            about_bytes=28 * MEGABYTE,
            sha256="56f234d77b7dd1f005fd365bb17769cfe346c3c84295b69bc069c8ccb83be03d",
            option="--dialogues {}",
            terms=Terms(
                "CC BY-NC 4.0",
                "You may use, share and change it for non-commercial purposes if you credit the authors.",
                "https://github.com/facebookresearch/EmpatheticDialogues",
            ),
        ),
        Resource(
            name="glove",
            title="GloVe 6B word vectors (Pennington et al. 2014)",
            address="https://nlp.stanford.edu/data/glove.6B.zip",
            file="glove.6B.zip",
            product="glove.6B.zip",
            about_bytes=862 * MEGABYTE,
            option="--vectors {}",
            terms=Terms(
                "PDDL 1.0",
                "Dedicated to the public domain: any use is allowed.",
                "https://nlp.stanford.edu/projects/glove/",
            ),
        ),
        Resource(
            name="nrc-vad",
            title="NRC Valence, Arousal and Dominance Lexicon, version 1 (Mohammad 2018)",
            address="https://saifmohammad.com/WebDocs/Lexicons/NRC-VAD-Lexicon.zip",
            file="NRC-VAD-Lexicon.zip",
            product="NRC-VAD-Lexicon.txt",
            make="join",
            members=("NRC-VAD-Lexicon.txt",),
            unpacked_limit=64 * MEGABYTE,
            option="--vad {}",
            terms=Terms("NRC terms of use", _NRC_SUMMARY, "https://saifmohammad.com/WebPages/nrc-vad.html"),
        ),
        Resource(
            name="emolex",
            title="NRC Emotion Lexicon, word level, version 0.92 (Mohammad and Turney 2013)",
            address="https://saifmohammad.com/WebDocs/Lexicons/NRC-Emotion-Lexicon.zip",
            file="NRC-Emotion-Lexicon.zip",
            product="NRC-Emotion-Lexicon-Wordlevel-v0.92.txt",
            make="join",
            members=("NRC-Emotion-Lexicon-Wordlevel-v0.92.txt",),
            unpacked_limit=64 * MEGABYTE,
            option="--emotion-words {}",
            terms=Terms("NRC terms of use", _NRC_SUMMARY, "https://saifmohammad.com/WebPages/NRC-Emotion-Lexicon.htm"),
        ),
        Resource(
            name="atomic",
            title="ATOMIC-2020 (Hwang et al. 2021)",
            address="https://ai2-atomic.s3-us-west-2.amazonaws.com/data/atomic2020_data-feb2021.zip",
            file="atomic2020_data-feb2021.zip",
            product="atomic2020.tsv",
            make="join",
            members=("train.tsv", "dev.tsv", "test.tsv"),
            unpacked_limit=1000 * MEGABYTE,
            option="--inferences atomic:{}",
            terms=Terms(
                "CC BY 4.0",
                "You may use, share and change it, also commercially, if you credit the authors.",
                "https://allenai.org/data/atomic-2020",
            ),
        ),
        Resource(
            name="conceptnet",
            title="ConceptNet 5.7 assertions (Speer et al. 2017)",
            address="https://s3.amazonaws.com/conceptnet/downloads/2019/edges/conceptnet-assertions-5.7.0.csv.gz",
            file="conceptnet-assertions-5.7.0.csv.gz",
            product="conceptnet-assertions-5.7.0.csv.gz",
            about_bytes=500 * MEGABYTE,
            option="--concepts {}",
            terms=Terms(
                "CC BY-SA 4.0",
                "You may use, share and change it if you credit ConceptNet and share derived data alike.",
                "https://conceptnet.io",
            ),
        ),
        Resource(
            name="comet",
            title="COMET-ATOMIC-2020, BART (Hwang et al. 2021)",
            address="https://storage.googleapis.com/ai2-mosaic-public/projects/mosaic-kgs/comet-atomic_2020_BART.zip",
            file="comet-atomic_2020_BART.zip",
            product="comet-atomic_2020_BART",
            make="convert",
            about_bytes=1500 * MEGABYTE,
            unpacked_limit=6000 * MEGABYTE,
            option="--inferences comet:{}",
            terms=Terms(
                "Apache-2.0 (code), CC BY 4.0 (data)",
                "The publisher licenses the code and the data it was trained on so and names no other terms for the "
                "checkpoint; credit the authors.",
                "https://github.com/allenai/comet-atomic-2020",
            ),
        ),
    )
}


def find(names: Iterable[str]) -> list[Resource]:
    """Return the resources called `names`, each once, in the order given.

    Raises:
        CtsmError: no name, or one that is not in the catalogue.
    """
    wanted = list(dict.fromkeys(names))
    known = ", ".join(CATALOGUE)
    if not wanted:
        raise CtsmError(f"Nothing to fetch: name one or more of {known}, or use --list to see what they are.")
    for name in wanted:
        if name not in CATALOGUE:
            raise CtsmError(f"There is no resource '{name}'; choose from {known}.")
    return [CATALOGUE[name] for name in wanted]


def mirrored(address: str, mirror: str | None) -> str:
    """Return `address` with its scheme and host replaced by those of `mirror`, whose path becomes a prefix.

    With mirror "http://files.example/copies", "https://host/a/b.zip" becomes "http://files.example/copies/a/b.zip".

    Raises:
        CtsmError: `mirror` is not a plain http or https address.
    """
    if mirror is None:
        return address
    wrong = CtsmError(
        f"--mirror {mirror}: is not an address of the form http(s)://HOST[:PORT][/PATH], without user name or query; "
        "mend it or leave it out."
    )
    try:
        base = urlsplit(mirror)
        has_host = bool(base.hostname) and (base.port or 1) > 0
    except ValueError:
        raise wrong from None
    blank = any(character.isspace() for character in mirror)
    if base.scheme not in {"http", "https"} or not has_host or "@" in base.netloc or base.query or blank:
        raise wrong
    original = urlsplit(address)
    return urlunsplit((base.scheme, base.netloc, base.path.rstrip("/") + original.path, original.query, ""))


def size_in_words(count: int | None) -> str:
    """Return a number of bytes as people write it ("862 MB"), or "size unknown"."""
    if count is None:
        return "size unknown"
    if count >= 1000 * MEGABYTE:
        return f"{count / 10**9:.1f} GB"
    return f"{count / MEGABYTE:.0f} MB" if count >= MEGABYTE else f"{count} bytes"


def describe(resource: Resource) -> str:
    """Return the few lines that `ctsm fetch --list` and the question about terms show for a resource."""
    about = "" if resource.about_bytes is None else "about "
    check = "checked" if resource.checked else "as found in public code, not checked"
    known = "known, will be checked" if resource.sha256 else "unknown, the first download's is recorded"
    return (
        f"{resource.name}: {resource.title}\n"
        f"  address: {resource.address} ({check})\n"
        f"  size:    {about}{size_in_words(resource.about_bytes)}; SHA-256 {known}\n"
        f"  terms:   {resource.terms.licence}. {resource.terms.summary}\n"
        f"           The publisher's page is what counts: {resource.terms.page}"
    )
