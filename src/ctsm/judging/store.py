"""The store of a study: its design, who may judge, and every judgement, each at most once."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from ctsm.errors import CtsmError
from ctsm.evaluation.fields import from_json, to_json
from ctsm.judging.database import (
    ANNOTATORS,
    JUDGEMENTS,
    META,
    TABLES,
    TRIALS,
    WITHDRAWN,
    connect,
    new_file,
    reading,
    set_write_ahead_log,
    writing,
)
from ctsm.judging.places import is_url, require_a_files_place, require_no_logs
from ctsm.judging.study import STUDY_SCHEMA, Judgement, Study, Trial, Verdict

ADMIN = "admin"
"""Whom the admin's token belongs to; annotators are numbered."""

TOKEN_BYTES = 24


class ConflictError(Exception):
    """An answer or a withdrawal does not fit what is stored; nothing was changed."""


class ClosedError(ConflictError):
    """The study is closed; nothing was changed."""


@dataclass(frozen=True)
class Standing:
    """Where an annotator stands.

    Attributes:
        done: how many trials are answered; always the first ones of the sequence.
        closed: whether the study is closed.
        revision: how often the trial that comes next was withdrawn.
        withdrawn: what was answered in it before, by aspect; empty if it was never answered.
        last_revision: how often the trial answered last was withdrawn.
    """

    done: int
    closed: bool
    revision: int
    withdrawn: dict[str, Verdict]
    last_revision: int


@dataclass(frozen=True)
class Progress:
    """How far an annotator is, and when the last judgement came (UTC, ISO 8601; None before the first)."""

    annotator: str
    done: int
    total: int
    last: str | None


class Store:
    """A study in a SQLite file or in PostgreSQL. Several processes may use one at the same time."""

    def __init__(self, engine: sa.Engine, study: Study) -> None:
        self._engine = engine
        self._study = study
        self._sequences = {
            name: [trial for trial in study.trials if trial.annotator == name] for name in study.annotators
        }
        self._trials = {trial.id: trial for trial in study.trials}

    @classmethod
    def create(cls, url_or_path: str | Path, study: Study) -> Store:
        """Write a new study, whole or not at all.

        Raises:
            CtsmError: something is there already or was left there (it stays as it is), or the database cannot be
                reached.
        """
        place = str(url_or_path)
        if is_url(place):
            engine = connect(place)
            with _explained(engine):
                if sa.inspect(engine).get_table_names():
                    raise CtsmError(_occupied(place))
                _fill(engine, study)
            return cls(engine, study)
        require_a_files_place(place)
        path = Path(place)
        if path.exists():
            raise CtsmError(_occupied(place))
        require_no_logs(place)
        try:
            with new_file(path) as temporary, _explained(connect(place)):
                set_write_ahead_log(temporary)
                engine = connect(str(temporary))
                _fill(engine, study)
                engine.dispose()
                require_no_logs(place)  # a server of a removed study may have been at work
        except FileExistsError:
            raise CtsmError(_occupied(place)) from None
        return cls(connect(place), study)

    @classmethod
    def open(cls, url_or_path: str | Path) -> Store:
        """Open a study.

        Raises:
            CtsmError: there is none, it is of another version, or the database cannot be reached.
        """
        place = str(url_or_path)
        engine = connect(place)
        if not is_url(place) and not Path(place).is_file():
            raise CtsmError(f"{place}: no such file (a study); make it with `ctsm judge create`.")
        shown = _shown(engine)
        with _explained(engine):
            _require_tables(engine, shown)
            with reading(engine) as connection:
                schema = connection.scalar(sa.select(META.c.schema))
                if schema not in (STUDY_SCHEMA, None):
                    raise CtsmError(
                        f"{shown}: a study of version {schema}, and this ctsm reads version "
                        f"{STUDY_SCHEMA}; use the ctsm that made it."
                    )
                return cls(engine, _read_study(connection, shown))

    @classmethod
    @contextmanager
    def opened(cls, url_or_path: str | Path) -> Iterator[Store]:
        """Open a study for the block, in which whatever the database refuses becomes a sentence.

        Raises:
            CtsmError: as `open`; or the database is locked, damaged or may not be written.
        """
        with closing(cls.open(url_or_path)) as store, _explained(store._engine):
            yield store

    def study(self) -> Study:
        """Return the study as it was created."""
        return self._study

    def judgements(self) -> list[Judgement]:
        """Return every judgement that counts, catch trials included, by annotator, place and aspect.

        Raises:
            CtsmError: one is of something that was not asked, so the database is damaged.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(JUDGEMENTS)).all()
        found = [self._judgement(row) for row in rows]
        aspects = self._study.aspects
        return sorted(
            found, key=lambda one: (int(one.annotator), self._trials[one.trial].place, aspects.index(one.aspect))
        )

    def sequence(self, annotator: str) -> Sequence[Trial]:
        """Return an annotator's trials in their order."""
        return self._sequences[annotator]

    @property
    def closed(self) -> bool:
        """Whether the study takes no more judgements."""
        with reading(self._engine) as connection:
            return _closed(connection)

    def close_study(self) -> None:
        """Take no more judgements, for good; a study that is closed stays as it is."""
        with writing(self._engine) as connection:
            connection.execute(sa.update(META).where(META.c.closed.is_(None)).values(closed=_now()))

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    def new_tokens(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """Give annotators (and `ADMIN`) new tokens; those they had are no longer valid.

        The database holds only the tokens' SHA-256, which for 192 random bits cannot be turned back.

        Args:
            names: for whom; everyone unless told otherwise.

        Raises:
            CtsmError: there is no such annotator.
        """
        everyone = [*self._study.annotators, ADMIN]
        tokens = {name: secrets.token_urlsafe(TOKEN_BYTES) for name in (everyone if names is None else names)}
        for name in tokens:
            if name not in everyone:
                raise CtsmError(f"annotator {name!r}: there is none; choose of {', '.join(everyone)}.")
        with writing(self._engine) as connection:
            for name, token in tokens.items():
                if name == ADMIN:
                    connection.execute(sa.update(META).values(admin_token=_digest(token)))
                else:
                    connection.execute(
                        sa.update(ANNOTATORS).where(ANNOTATORS.c.name == name).values(token=_digest(token))
                    )
        return tokens

    def owner(self, token: str) -> str | None:
        """Return whose token this is: an annotator's name or `ADMIN`; None if nobody's."""
        digest = _digest(token)
        with reading(self._engine) as connection:
            if connection.scalar(sa.select(META.c.admin_token)) == digest:
                return ADMIN
            return connection.scalar(sa.select(ANNOTATORS.c.name).where(ANNOTATORS.c.token == digest))

    def standing(self, annotator: str) -> Standing:
        """Return where an annotator stands."""
        trials = self._sequences[annotator]
        with reading(self._engine) as connection:
            done = _done(connection, annotator)
            revision, withdrawn = 0, dict[str, Verdict]()
            if done < len(trials):
                revision = _revision(connection, trials[done].id)
                withdrawn = _verdicts(connection, WITHDRAWN, trials[done].id, WITHDRAWN.c.revision == revision - 1)
            last_revision = _revision(connection, trials[done - 1].id) if done else 0
            return Standing(done, _closed(connection), revision, withdrawn, last_revision)

    def answer(self, annotator: str, trial: str, revision: int, verdicts: Mapping[str, Verdict]) -> None:
        """Store an annotator's verdicts on a trial, durably. The same verdicts again change nothing.

        Args:
            annotator: whose trial it must be.
            trial: the id of the trial that comes next, or of one whose answer is sent again.
            revision: how often the trial was withdrawn, as far as the sender knows.
            verdicts: on reply A, one for each aspect of the study.

        Raises:
            ConflictError: other verdicts are stored, the trial was withdrawn since, or it is not the next one.
            ClosedError: the study is closed.
        """
        place = self._place(annotator, trial)
        if set(verdicts) != set(self._study.aspects):
            raise ConflictError
        with writing(self._engine) as connection:
            _lock(connection, annotator)
            stored = _verdicts(connection, JUDGEMENTS, trial)
            if revision != _revision(connection, trial) or (stored and stored != verdicts):
                raise ConflictError
            if stored:
                return
            if _closed(connection):
                raise ClosedError
            if place != _done(connection, annotator):
                raise ConflictError
            rows = [{"trial": trial, "aspect": a, "verdict": v, "judged": _now()} for a, v in verdicts.items()]
            connection.execute(sa.insert(JUDGEMENTS), rows)

    def withdraw(self, annotator: str, trial: str, revision: int) -> None:
        """Take the verdicts on the trial that was answered last back; they no longer count, and a log keeps them.

        Raises:
            ConflictError: the trial is not the one answered last, or the sender does not know its newest revision.
            ClosedError: the study is closed.
        """
        place = self._place(annotator, trial)
        with writing(self._engine) as connection:
            _lock(connection, annotator)
            done, current = _done(connection, annotator), _revision(connection, trial)
            if place == done and revision == current - 1:
                return  # sent again
            if _closed(connection):
                raise ClosedError
            if place != done - 1 or revision != current:
                raise ConflictError
            kept = sa.select(
                JUDGEMENTS.c.trial,
                sa.literal(revision),
                JUDGEMENTS.c.aspect,
                JUDGEMENTS.c.verdict,
                JUDGEMENTS.c.judged,
                sa.literal(_now()),
            ).where(JUDGEMENTS.c.trial == trial)
            columns = ["trial", "revision", "aspect", "verdict", "judged", "withdrawn"]
            connection.execute(sa.insert(WITHDRAWN).from_select(columns, kept))
            connection.execute(sa.delete(JUDGEMENTS).where(JUDGEMENTS.c.trial == trial))

    def progress(self) -> list[Progress]:
        """Return how far each annotator is."""
        query = (
            sa.select(
                TRIALS.c.annotator, sa.func.count(JUDGEMENTS.c.trial.distinct()), sa.func.max(JUDGEMENTS.c.judged)
            )
            .join(JUDGEMENTS, JUDGEMENTS.c.trial == TRIALS.c.id)
            .group_by(TRIALS.c.annotator)
        )
        with reading(self._engine) as connection:
            found = {name: (done, last) for name, done, last in connection.execute(query)}
        nothing = (0, None)
        standings = ((name, len(trials), *found.get(name, nothing)) for name, trials in self._sequences.items())
        return [Progress(name, done, total, last) for name, total, done, last in standings]

    def _place(self, annotator: str, trial: str) -> int:
        """Return the place of an annotator's own trial."""
        found = self._trials.get(trial)
        if found is None or found.annotator != annotator:
            raise ConflictError
        return found.place

    def _judgement(self, row: Any) -> Judgement:
        trial = self._trials.get(row.trial)
        if trial is None or row.aspect not in self._study.aspects:
            place = _shown(self._engine)
            raise CtsmError(f"{place}: is damaged (a judgement of something that was not asked); restore a copy of it.")
        return Judgement(
            trial=trial.id,
            annotator=trial.annotator,
            pair=trial.pair,
            item=trial.item,
            catch=trial.catch,
            aspect=row.aspect,
            verdict=row.verdict,
            judged=row.judged,
        )


def _fill(engine: sa.Engine, study: Study) -> None:
    """Write the tables and the study in one transaction."""
    header = to_json(replace(study, trials=()))
    with writing(engine) as connection:
        TABLES.create_all(connection)
        values = {"id": 1, "schema": study.schema, "study": json.dumps(header, ensure_ascii=False)}
        connection.execute(sa.insert(META).values(values))
        connection.execute(sa.insert(ANNOTATORS), [{"name": name} for name in study.annotators])
        connection.execute(sa.insert(TRIALS), [to_json(trial) for trial in study.trials])


def _require_tables(engine: sa.Engine, place: str) -> None:
    """Refuse a database without the tables of a study."""
    found = sa.inspect(engine).get_table_names()
    if META.name not in found:
        raise CtsmError(f"{place}: holds no study; make one with `ctsm judge create`.")
    for name in sorted(TABLES.tables.keys() - set(found)):
        raise CtsmError(f"{place}: lacks the table {name}; restore a copy of it.")


def _read_study(connection: sa.Connection, place: str) -> Study:
    try:
        header = json.loads(cast(str, connection.scalar(sa.select(META.c.study))))
        order = {name: number for number, name in enumerate(header["annotators"])}
        rows = connection.execute(sa.select(TRIALS)).mappings().all()
        header["trials"] = sorted(map(dict, rows), key=lambda trial: (order[trial["annotator"]], trial["place"]))
    except (LookupError, TypeError, ValueError):
        raise CtsmError(f"{place}: is damaged (the study cannot be read); restore a copy of it.") from None
    return from_json(Study, header, place, "use the ctsm that made it")


def _lock(connection: sa.Connection, annotator: str) -> None:
    """Let two tabs of one annotator write one after the other, and nobody while the study is being closed.

    SQLite has one writer anyway.
    """
    connection.execute(sa.select(META.c.id).with_for_update(read=True))
    connection.execute(sa.select(ANNOTATORS.c.name).where(ANNOTATORS.c.name == annotator).with_for_update())


def _closed(connection: sa.Connection) -> bool:
    return connection.scalar(sa.select(META.c.closed)) is not None


def _done(connection: sa.Connection, annotator: str) -> int:
    """Count an annotator's answered trials."""
    query = sa.select(sa.func.count(JUDGEMENTS.c.trial.distinct())).join(TRIALS, TRIALS.c.id == JUDGEMENTS.c.trial)
    return connection.scalar(query.where(TRIALS.c.annotator == annotator)) or 0


def _revision(connection: sa.Connection, trial: str) -> int:
    """Count how often a trial was withdrawn."""
    newest = connection.scalar(sa.select(sa.func.max(WITHDRAWN.c.revision)).where(WITHDRAWN.c.trial == trial))
    return 0 if newest is None else newest + 1


def _verdicts(
    connection: sa.Connection, table: sa.Table, trial: str, *conditions: sa.ColumnElement[bool]
) -> dict[str, Verdict]:
    """Return the verdicts on a trial by aspect."""
    rows = connection.execute(sa.select(table.c.aspect, table.c.verdict).where(table.c.trial == trial, *conditions))
    return {row.aspect: row.verdict for row in rows}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _shown(engine: sa.Engine) -> str:
    """Return STUDY for a message, without a password."""
    if engine.dialect.name == "sqlite":
        return str(engine.url.database)
    return engine.url.set(drivername="postgresql").render_as_string()


def _occupied(place: str) -> str:
    """Say what is at STUDY already."""
    shown = _shown(connect(place))
    try:
        store = Store.open(place)
    except CtsmError:
        what = "something that is no study of this version"
    else:
        what = f"a study with {len(store.judgements()):,} judgements"
        store.close()
    return f"{shown}: {what} is there already and stays as it is; choose another place."


@contextmanager
def _explained(engine: sa.Engine) -> Iterator[None]:
    """Turn what a database refuses into a sentence."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        if engine.dialect.name != "sqlite":
            raise CtsmError(f"{_shown(engine)}: {reason}; check that the server runs and takes this user.") from None
        raise CtsmError(
            f"{_shown(engine)}: cannot be used as a study ({reason}); check that it is one, that you may write it, "
            "that the disk has room, and that no other program holds it."
        ) from None
