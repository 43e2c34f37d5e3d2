"""`ctsm judge report`: the results of a study with what one must know to read them, as one JSON record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.evaluation.fields import from_json, to_json
from ctsm.evaluation.records import utc_now
from ctsm.evaluation.significance import RESAMPLES, SEED
from ctsm.files import atomic_file, read_json, write_json
from ctsm.judging.places import require_nothing_at
from ctsm.judging.report_tables import latex, markdown
from ctsm.judging.results import Annotator, Results, catch_aspect, check_annotators, results
from ctsm.judging.study import Judgement, Pair, Study

REPORT_SCHEMA = 1
REMEDY = "make it again with `ctsm judge report`"


@dataclass(frozen=True, kw_only=True)
class Report:
    """A study's results.

    Attributes:
        schema: `REPORT_SCHEMA`.
        made: UTC, ISO 8601.
        study_created: UTC, ISO 8601.
        study_seed: of the sampling and of the sides.
        closed: whether the study was closed; what is not closed is an interim result.
        items: contexts of each pair.
        aspects: in the order they were asked.
        pairs: in the order of the table.
        catch_trials: of all annotators together.
        catch_aspect: in which catch trials are read; None when the study asks no aspect that they can show.
        annotators: each one's work.
        resamples: of the bootstrap.
        random_seed: of the bootstrap.
        everyone: the table of all annotators.
        without_failing: the table without those who failed; None when nobody failed or nobody is left.
    """

    schema: int
    made: str
    study_created: str
    study_seed: int
    closed: bool
    items: int
    aspects: tuple[str, ...]
    pairs: tuple[Pair, ...]
    catch_trials: int
    catch_aspect: str | None
    annotators: tuple[Annotator, ...]
    resamples: int
    random_seed: int
    everyone: Results
    without_failing: Results | None

    @property
    def missing(self) -> int:
        """Judgements that the study wants and does not have."""
        return sum(one.asked - one.judged for one in self.annotators)

    @property
    def failing(self) -> tuple[str, ...]:
        """The annotators who failed the catch trials."""
        return tuple(one.name for one in self.annotators if one.status == "failed")


def make_report(
    study: Study, judgements: Sequence[Judgement], closed: bool, resamples: int = RESAMPLES, seed: int = SEED
) -> Report:
    """Compute the report of a study.

    Args:
        study: what was asked.
        judgements: at most one of each trial in each aspect.
        closed: whether nobody can judge any more.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MissingExtraError: the extra "judge" is not installed.
    """
    annotators = check_annotators(study, judgements)
    passing = [one.name for one in annotators if one.status != "failed"]
    some_failed = 0 < len(passing) < len(annotators)
    return Report(
        schema=REPORT_SCHEMA,
        made=utc_now(),
        study_created=study.created,
        study_seed=study.seed,
        closed=closed,
        items=len(study.items),
        aspects=study.aspects,
        pairs=study.pairs,
        catch_trials=sum(trial.catch for trial in study.trials),
        catch_aspect=catch_aspect(study),
        annotators=annotators,
        resamples=resamples,
        random_seed=seed,
        everyone=results(study, judgements, study.annotators, resamples, seed),
        without_failing=results(study, judgements, passing, resamples, seed) if some_failed else None,
    )


def require_closed(closed: bool, while_open: bool) -> None:
    """Refuse to show verdicts of a study in which people still judge, unless that is asked for.

    Raises:
        CtsmError: the study is open and `while_open` is False.
    """
    if not closed and not while_open:
        raise CtsmError(
            "this study is still open, and who sees results before its end can end it when they please; close it first "
            "with `ctsm judge close` or on the admin's page, or ask for interim results with --while-open."
        )


def write_report(folder: Path, report: Report) -> None:
    """Write report.md, table.tex and report.json into a folder, each atomically; other files there stay.

    Raises:
        CtsmError: one of the three is there already, perhaps of another study or written by hand.
    """
    require_nothing_at(folder / name for name in ("report.md", "table.tex", "report.json"))
    value = to_json(report)
    from_json(Report, value, str(folder), REMEDY)  # a wrong value must not reach the disk
    for name, text in (("report.md", markdown(report)), ("table.tex", latex(report))):
        with atomic_file(folder / name) as stream:
            stream.write(text)
    write_json(folder / "report.json", value)


def read_report(path: Path) -> Report:
    """Read a report.json.

    Raises:
        CtsmError: the file is missing, not JSON, of another schema, or a field is missing, unknown or of another type.
    """
    value = read_json(path, "the report of a study")
    if isinstance(value, dict) and value.get("schema", REPORT_SCHEMA) != REPORT_SCHEMA:
        raise CtsmError(
            f"{path}: schema {value['schema']!r}, but this version of ctsm reads {REPORT_SCHEMA}; {REMEDY}."
        )
    return from_json(Report, value, str(path), REMEDY)
