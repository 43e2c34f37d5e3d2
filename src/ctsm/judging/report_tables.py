"""A study's report for people: tables for the terminal, Markdown, and LaTeX laid out as the paper's Table 2."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ctsm.evaluation.markdown import markdown_table
from ctsm.evaluation.records import Interval

if TYPE_CHECKING:
    from rich.table import Table

    from ctsm.judging.report import Report
    from ctsm.judging.results import Results, Row

NONE = "-"
MINUS = re.compile(r"^-(?=\d)")
"""A hyphen that LaTeX must set as a minus."""
HOW_TO_READ = (
    "Win, Tie, Lose: share of all judgements in which A was preferred, neither was, or B was, in percent; catch trials "
    "are not among them. The larger of Win and Lose is bold.",
    "κ: Fleiss' kappa over the items that every annotator judged, with the reading of Landis and Koch; Missing: the "
    "other items. Alpha: Krippendorff's alpha (nominal), which allows missing judgements. Raw: share of agreeing pairs "
    "of annotators. Alpha and Raw stand on the items with at least two judgements.",
    "W/T/L: items won, tied and lost by the verdict of more than half of their annotators; tied where there is "
    "none. p: two-sided exact sign test of the items won against those lost; 1 where every item is tied. p (Holm): "
    "corrected for all tests of the table.",
    "95 %: percentile bootstrap of Win minus Lose over items ({resamples:,} sets, seed {random_seed}). It tells what "
    "other contexts might give, with these annotators.",
)
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


class Cell(NamedTuple):
    """One cell: its text, and whether it is bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of any output: two columns of names, the others numbers."""

    title: str
    header: tuple[str, ...]
    lines: list[list[Cell]]


def grids(results: Results) -> list[Grid]:
    """Return the three tables of some results: the paper's, the tests, the agreement."""
    names = ("Comparison", "Aspect")
    return [
        Grid("Win, Tie and Lose (%)", (*names, "Win", "Tie", "Lose", "κ", "n"), _lines(results, _shares)),
        Grid(
            "Win minus Lose, and items won, tied and lost",
            (*names, "Win-Lose", "95 %", "W/T/L", "p", "p (Holm)"),
            _lines(results, _tests),
        ),
        Grid(
            "Agreement",
            (*names, "κ", "Reading", "Items", "Missing", "Alpha", "Raw %"),
            _lines(results, _agreement),
        ),
    ]


def annotators_grid(report: Report) -> Grid:
    """Return the table of the annotators' work."""
    lines = [
        [
            Cell(one.name),
            Cell(one.status),
            Cell(f"{one.caught} of {one.catch_trials}"),
            Cell(f"{one.judged:,} of {one.asked:,}"),
        ]
        for one in report.annotators
    ]
    return Grid("Annotators", ("Annotator", "Catch trials", "Won by the reference", "Judgements"), lines)


def notes(report: Report) -> list[str]:
    """Return what one must know before reading the tables, a sentence or two each."""
    found = []
    if not report.closed:
        found.append("The study is still open: these are interim results.")
    if report.missing:
        who = ", ".join(
            f"annotator {one.name}: {one.asked - one.judged:,}" for one in report.annotators if one.asked > one.judged
        )
        asked = sum(one.asked for one in report.annotators)
        found.append(f"Unfinished: {report.missing:,} of {asked:,} judgements are missing ({who}).")
    found += [f"{pair.name}: A is {pair.a}, B is {pair.b}." for pair in report.pairs]
    found.append(_about_catch_trials(report))
    for row in report.everyone.rows:
        agreed = row.agreement
        if agreed.undefined:
            raw = "" if agreed.raw is None else f"; raw agreement {number(100 * agreed.raw, 1)} %"
            found.append(f"{row.pair}, {row.aspect}: κ is undefined, because {agreed.undefined}{raw}.")
        if agreed.left_out:
            found.append(
                f"{row.pair}, {row.aspect}: {agreed.left_out:,} of {report.items:,} items are left out of κ, because "
                "somebody has not judged them."
            )
    return found


def terminal_tables(report: Report) -> list[Table]:
    """Return the report as tables for the terminal."""
    tables = [_terminal_table(grid, "") for grid in grids(report.everyone)]
    if report.without_failing:
        tables += [
            _terminal_table(grid, f", without {_listed(report.failing)}") for grid in grids(report.without_failing)
        ]
    return [*tables, _terminal_table(annotators_grid(report), "")]


def markdown(report: Report) -> str:
    """Return the report as a Markdown page."""
    listed = "\n".join(f"- {' '.join(note.split())}" for note in notes(report)).replace("<", "&lt;")
    parts = ["# Human A/B study", listed, "## All annotators"]
    parts += [_markdown_grid(grid) for grid in grids(report.everyone)]
    if report.without_failing:
        parts.append(f"## Without {_listed(report.failing)}, who failed the catch trials")
        parts += [_markdown_grid(grid) for grid in grids(report.without_failing)]
    parts += ["## Annotators", _markdown_grid(annotators_grid(report), title=False), "## How to read this"]
    parts += [text.format(**vars(report)) for text in HOW_TO_READ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def latex(report: Report) -> str:
    """Return the table as LaTeX for `\\usepackage{booktabs}`, in the layout of the paper's Table 2."""
    parts = ["% Needs \\usepackage{booktabs} in the preamble.", _latex_table(report, report.everyone, "")]
    if report.without_failing:
        parts.append(_latex_table(report, report.without_failing, f", without {_listed(report.failing)}"))
    return "\n\n".join(parts) + "\n"


def latex_escaped(text: str) -> str:
    """Return a text that LaTeX prints as it is, on one line."""
    return "".join(LATEX_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """Print a number with so many digits, never as -0.0; None becomes "-"."""
    if value is None:
        return NONE
    rounded = round(value, digits) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:+.{digits}f}" if signed else f"{rounded:.{digits}f}"


def _lines(results: Results, numbers: Callable[[Row], list[Cell]]) -> list[list[Cell]]:
    """Return a line for each row; the pair is named in its first line only, as in the paper."""
    lines, before = [], ""
    for row in results.rows:
        lines.append([Cell("" if row.pair == before else row.pair), Cell(row.aspect.capitalize()), *numbers(row)])
        before = row.pair
    return lines


def _shares(row: Row) -> list[Cell]:
    return [
        Cell(number(row.win, 1), row.wins > row.losses),
        Cell(number(row.tie, 1)),
        Cell(number(row.lose, 1), row.losses > row.wins),
        Cell(number(row.agreement.kappa, 2)),
        Cell(f"{row.n:,}"),
    ]


def _tests(row: Row) -> list[Cell]:
    texts = [
        number(row.difference, 1, signed=True),
        _interval(row.interval),
        f"{row.majority_wins}/{row.majority_ties}/{row.majority_losses}",
        _p(row.p),
        _p(row.p_holm),
    ]
    return [Cell(text) for text in texts]


def _agreement(row: Row) -> list[Cell]:
    agreed = row.agreement
    raw = None if agreed.raw is None else 100 * agreed.raw
    texts = [
        number(agreed.kappa, 2),
        agreed.reading or NONE,
        f"{agreed.items:,}",
        f"{agreed.left_out:,}",
        number(agreed.alpha, 2),
        number(raw, 1),
    ]
    return [Cell(text) for text in texts]


def _interval(interval: Interval | None) -> str:
    return NONE if interval is None else f"{number(interval.low, 1)}, {number(interval.high, 1)}"


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _listed(names: Sequence[str]) -> str:
    return f"annotator{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _about_catch_trials(report: Report) -> str:
    """Say what the catch trials show, or why they show nothing."""
    if not report.catch_trials:
        return "The study has no catch trials, so inattentive annotators cannot be told."
    if report.catch_aspect is None:
        return "No aspect that was asked depends on the context, so the catch trials show nothing."
    rule = (
        f"Catch trials are read in {report.catch_aspect}: an annotator fails when the reference wins fewer than two "
        "thirds of those judged."
    )
    everyone = len(report.annotators)
    unchecked = sum(one.status == "unchecked" for one in report.annotators)
    if unchecked == everyone:
        return f"{rule} Nobody has judged a catch trial yet, so nobody is checked."
    if not report.failing:
        found = "Nobody failed."
    elif report.without_failing is None:
        found = "Every annotator failed, so there are no results without them."
    else:
        found = f"Failed: {_listed(report.failing)}; results are given with and without."
    if unchecked:
        has, is_ = ("has", "is") if unchecked == 1 else ("have", "are")
        found += f" {unchecked} of {everyone} annotators {has} judged no catch trial and {is_} unchecked."
    return f"{rule} {found}"


def _terminal_table(grid: Grid, suffix: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=grid.title + suffix, box=box.SIMPLE_HEAD, collapse_padding=True)
    for place, name in enumerate(grid.header):
        table.add_column(name, justify="left" if place < 2 else "right")
    for line in grid.lines:
        table.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in line))
    return table


def _markdown_grid(grid: Grid, title: bool = True) -> str:
    lines = [[f"**{cell.text}**" if cell.bold else cell.text for cell in line] for line in grid.lines]
    return (f"### {grid.title}\n\n" if title else "") + markdown_table(grid.header, lines)


def _latex_table(report: Report, results: Results, suffix: str) -> str:
    """Return one table environment."""
    grid = grids(results)[0]
    header = " & ".join(latex_escaped(name).replace("κ", r"$\kappa$") for name in grid.header)
    body = list[str]()
    for line in grid.lines:
        if body and line[0].text:
            body.append(r"\midrule")
        cells = [MINUS.sub("$-$", latex_escaped(cell.text)) for cell in line]
        bold = [rf"\textbf{{{text}}}" if cell.bold else text for text, cell in zip(cells, line, strict=True)]
        body.append(" & ".join(bold) + r" \\")
    caption = (
        rf"Human A/B evaluation (\%): {report.items} contexts, {len(results.annotators)} annotators"
        rf"{latex_escaped(suffix)}. $\kappa$ is Fleiss' kappa, $n$ the number of judgements."
    )
    interim = "" if report.closed else " Interim results."
    columns = "ll" + "r" * (len(grid.header) - 2)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rf"{header} \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}{interim}}}",
            r"\end{table}",
        ]
    )
