"""Reading the pairs of a study: replies files of two systems each that answer the same contexts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.evaluation.replies import Reply, read_replies
from ctsm.judging.study import Pair


@dataclass(frozen=True)
class PairReplies:
    """A pair and the two systems' replies by id, in the order of the study's first file."""

    pair: Pair
    a: dict[str, Reply]
    b: dict[str, Reply]

    def same_replies(self, items: Iterable[str]) -> int:
        """Count the items that both systems answer with the same text."""
        return sum(self.a[item].reply.strip() == self.b[item].reply.strip() for item in items)


def read_pairs(descriptions: Sequence[str]) -> list[PairReplies]:
    """Read pairs given as NAME=A.jsonl,B.jsonl.

    A file that stands in several pairs is read once. Two files of a pair that name the same system (two runs of one
    model) are told apart by their paths.

    Raises:
        CtsmError: a description is malformed, a name is used twice, a pair compares a file with itself, a file is wrong
            or names several systems, or the files answer different contexts.
    """
    named = [_parse(description) for description in descriptions]
    names = [name for name, _, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise CtsmError(f"--pair: the name {name!r} is used twice; give every pair its own name.")
    first = named[0][1]
    read: dict[Path, dict[str, Reply]] = {}
    for _, a, b in named:
        for path in (a, b):
            if path not in read:
                replies = {reply.id: reply for reply in read_replies(path)}
                read[path] = _in_order_of(read.get(first, replies), replies, first, path)
    pairs = []
    for name, a, b in named:
        systems = [_system(path, read[path]) for path in (a, b)]
        if systems[0] == systems[1]:
            systems = [f"{system} ({path})" for system, path in zip(systems, (a, b), strict=True)]
        pairs.append(PairReplies(Pair(name=name, a=systems[0], b=systems[1]), read[a], read[b]))
    return pairs


def _parse(description: str) -> tuple[str, Path, Path]:
    """Split NAME=A,B."""
    name, equals, files = description.partition("=")
    paths = [Path(file) for file in files.split(",")]
    if not name.strip() or not equals or len(paths) != 2 or not all(files.split(",")):
        raise CtsmError(f"--pair {description!r}: must be NAME=A.jsonl,B.jsonl, where no path holds a comma.")
    if paths[0].resolve() == paths[1].resolve():
        raise CtsmError(f"--pair {description!r}: compares {paths[0]} with itself; name two files.")
    return name.strip(), paths[0], paths[1]


def _in_order_of(expected: dict[str, Reply], replies: dict[str, Reply], first: Path, path: Path) -> dict[str, Reply]:
    """Return the replies in the order of the first file, after checking that they answer its contexts."""
    remedy = "the files of a study must answer the same contexts, so make them from the same split of the same data"
    for owner, other, ids in ((path, first, expected.keys() - replies), (first, path, replies.keys() - expected)):
        if ids:
            raise CtsmError(f"{owner}: has no reply with the id {min(ids)!r}, but {other} has; {remedy}.")
    for item, reply in replies.items():
        for field in ("context", "reference"):
            if getattr(reply, field) != getattr(expected[item], field):
                raise CtsmError(f"{path}: the {field} of {item!r} is not that of {first}; {remedy}.")
        if not any(turn.strip() for turn in reply.context):
            raise CtsmError(f"{path}: the context of {item!r} is empty; nobody can judge a reply to nothing.")
    return {item: replies[item] for item in expected}


def _system(path: Path, replies: dict[str, Reply]) -> str:
    """Return the one system that a file names."""
    systems = sorted({reply.system for reply in replies.values()})
    if not systems:
        raise CtsmError(f"{path}: holds no replies; make it with `ctsm evaluate` or `ctsm generate`.")
    if len(systems) > 1:
        raise CtsmError(
            f"{path}: holds replies of {len(systems)} systems ({systems[0]!r}, {systems[1]!r}); keep one file a system."
        )
    return systems[0]
