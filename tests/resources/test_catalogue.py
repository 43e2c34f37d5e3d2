from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from ctsm.errors import CtsmError
from ctsm.resources.catalogue import CATALOGUE, describe, find, mirrored, size_in_words

NAMES = ["empatheticdialogues", "glove", "nrc-vad", "emolex", "atomic", "conceptnet", "comet"]


def test_every_resource_is_complete():
    assert list(CATALOGUE) == NAMES
    files = [resource.file for resource in CATALOGUE.values()]
    assert len(set(files)) == len(files)
    for name, resource in CATALOGUE.items():
        assert resource.name == name
        assert urlsplit(resource.address).scheme == "https"
        assert resource.address.endswith("/" + resource.file)
        assert resource.terms.licence
        assert resource.terms.summary.endswith(".")
        assert resource.terms.page.startswith("https://")
        assert resource.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", resource.sha256)
        assert (resource.make == "keep") == (resource.product == resource.file)
        assert (resource.make == "join") == bool(resource.members)
        assert (resource.make == "keep") == (resource.unpacked_limit == 0)
        assert resource.option.count("{}") == 1


def test_unchecked_addresses_are_called_so():
    for resource in CATALOGUE.values():
        assert not resource.checked
        text = describe(resource)
        assert "as found in public code, not checked" in text
        assert resource.terms.licence in text
        assert resource.address in text


def test_find_keeps_the_order_and_drops_repetitions():
    assert [resource.name for resource in find(["glove", "atomic", "glove"])] == ["glove", "atomic"]
    with pytest.raises(CtsmError, match="no resource 'word2vec'; choose from empatheticdialogues"):
        find(["glove", "word2vec"])
    with pytest.raises(CtsmError, match="Nothing to fetch"):
        find([])


def test_mirror_replaces_scheme_and_host():
    address = "https://publisher.example/data/x.zip"
    assert mirrored(address, None) == address
    assert mirrored(address, "http://127.0.0.1:8000") == "http://127.0.0.1:8000/data/x.zip"
    assert mirrored(address, "https://m.example/copies/") == "https://m.example/copies/data/x.zip"


@pytest.mark.parametrize(
    "mirror",
    ["", "m.example", "ftp://m.example", "file:///tmp", "http://", "http://m:99999", "http://m:x", "http://u:p@m",
     "http://m/?a=b", "http://m/a b", "http://[::1"],
)  # fmt: skip
def test_other_mirrors_are_refused(mirror):
    with pytest.raises(CtsmError, match="--mirror"):
        mirrored("https://publisher.example/x.zip", mirror)


def test_sizes_in_words():
    assert size_in_words(None) == "size unknown"
    assert size_in_words(999_999) == "999999 bytes"
    assert size_in_words(862_000_000) == "862 MB"
    assert size_in_words(1_500_000_000) == "1.5 GB"
