"""`ctsm bench report`: tables and figures from saved reports, recomputed here from the numbers that went in."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from ctsm.bench.report import Figure, Report, Series
from ctsm.cli.main import main

ROOT = Path(__file__).parents[2]
NAMES = (
    *("goals", "calibration", "train", "techniques-training", "decode", "techniques-decoding", "reply", "startup"),
    *("growth", "systems", "gpu"),
)
BASE = {"vocabulary": 100, "context": 8, "batch": 2}
TIMES = {
    "training step": {100: (4.0, 5.0, 9.0), 200: (7.0, 8.0, 8.5), 400: (12.0, 16.0, 16.5)},
    "greedy decoding": {100: (2.0, 2.0, 2.0), 200: (2.5, 3.0, 4.0), 400: (3.0, 3.5, 4.0)},
}


def save(folder: Path, name: str, verb: str, device: str = "cpu", **values: Any) -> Path:
    """Save a report as `--json` does."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"processor": "An 8086", "cores": 2, "device": device, "load_average": 0.05}
    empty: dict[str, Any] = {
        "settings": {},
        "data": {"source": "prepared", "examples": 5259},
        "series": [],
        "figures": [],
    }
    report = Report(verb, machine, **{**empty, **values})
    (folder / name).write_text(json.dumps(report.to_json()), encoding="utf-8")
    return folder / name


def save_training(folder: Path) -> None:
    series = [
        Series("fast CTSM, fp32", "examples/s", (20.0, 30.0, 25.0)),
        Series("fast CTSM, bf16", "examples/s", (92.0,)),
    ]
    figures = [
        Figure("fast fp32 / plain", "x", 3.0),
        Figure("share of the limit, fp32", "%", 30.0),
        Figure("fast bf16 / plain", "x", 7.25),
        Figure("share of the limit, bf16", "%", 21.5),
        Figure("calibration: plain Transformer, batch 16", "examples/s", 51.2, at_least=50.0),
        Figure("peak memory of the process, fast path alone", "MiB", 1234.0),
    ]
    profile = {"collate": 0.001, "backward": 0.003}
    save(folder, "train.json", "train", series=series, figures=figures, profile=profile, notes=["Mind the gap."])


def save_growth(folder: Path, name: str = "growth.json", device: str = "cpu") -> None:
    series = [
        Series(kind, "ms", values, {**BASE, "vocabulary": size})
        for kind, times in TIMES.items()
        for size, values in reversed(times.items())
    ]
    save(folder, name, "growth", device, series=series, settings={"base": BASE}, data={"source": "made up"})


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "docs" / "performance.md"
    path.parent.mkdir(exist_ok=True)
    blocks = [f"## {name}\n\n<!-- bench {name}: begin (x) -->\nold\n<!-- bench {name}: end -->\n" for name in NAMES]
    path.write_text("# Performance\n\n" + "\nBy hand: 5 | 6.\n\n".join(blocks), encoding="utf-8")
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "docs" / "results" / "bench"
    folder.mkdir(parents=True)
    return folder


def generate(results: Path, document: Path) -> dict[str, str]:
    """Generate, and return the text of each block."""
    words = [str(results), "--document", str(document), "--figures", str(document.parent / "figures")]
    assert main(["bench", "report", *words]) == 0
    text = document.read_text(encoding="utf-8")
    found = {
        name: text[text.index(f"<!-- bench {name}: begin (x) -->\n") : text.index(f"<!-- bench {name}: end -->")]
        for name in NAMES
    }
    return {name: block.partition("-->\n")[2] for name, block in found.items()}


def rows(block: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines() if line[:1] == "|"]


def error(capsys: pytest.CaptureFixture[str], results: Path, document: Path) -> str:
    capsys.readouterr()
    words = [str(results), "--document", str(document), "--figures", str(document.parent / "figures")]
    assert main(["bench", "report", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_nothing_measured(results: Path, document: Path) -> None:
    blocks = generate(results, document)
    goals = rows(blocks.pop("goals"))[2:]
    assert {row[2] for row in goals} == {"not measured yet"}
    assert set(blocks.values()) == {"\nNot measured yet.\n\n"}
    assert not (document.parent / "figures").exists()


def test_goals_are_read_from_the_reports(results: Path, document: Path) -> None:
    save_training(results)
    beam = Figure("beam 5, all 5,259 contexts of the split (from the sample)", "s", 390.0)
    save(results, "decode.json", "decode", figures=[beam, Figure("fast / plain, greedy, fp32", "x", 30.0)])
    save(results, "gpu.json", "decode", "A GPU", figures=[Figure("fast / plain, greedy, fp32", "x", 999.0)])
    goals = {row[0]: row[1:] for row in rows(generate(results, document)["goals"])[2:]}
    # bf16 is the faster precision, so its share counts, and it is too low.
    assert goals["training against the arithmetic limit"] == ["at least 25 %", "fp32 30.0 %, bf16 21.5 %", "NOT met"]
    assert goals["training, examples/s against the plain path, batch 16"][1:] == ["fp32 3.00 x, bf16 7.25 x", "met"]
    minutes = [17_250 * 16 / speed / 60 for speed in (25.0, 92.0)]
    assert goals["full run, 17,250 steps of 16, by examples/s; ten evaluations take up to 4 of 60 min"] == [
        "at most 56 min",
        f"fp32 {minutes[0]:.0f} min, bf16 {minutes[1]:.1f} min",
        "met",
    ]
    assert goals["beam 5 for the whole split"] == ["at most 6 min", "6.50 min", "NOT met"]
    assert goals["greedy replies against the plain path, fp32"] == ["at least 30 x", "30.0 x", "met"]
    assert goals["memory of training"] == ["at most 3,072 MiB", "1,234 MiB", "met"]
    assert goals["one reply in a warm process, median"][1:] == ["not measured yet", ""]


def test_everything_of_a_report_is_shown(results: Path, document: Path) -> None:
    save_training(results)
    blocks = generate(results, document)
    table = rows(blocks["train"])
    assert ["fast CTSM, fp32", "25.0", "20.0", "30.0", "examples/s", "3"] in table
    assert ["calibration: plain Transformer, batch 16", "51.2", "examples/s", "at least 50: met"] in table
    assert ["backward", "3.00", "75.0%"] in table
    assert ["all", "4.00", ""] in table
    assert "Mind the gap." in blocks["train"]
    assert "processor An 8086, cores 2, device cpu, load average 0.05" in blocks["train"]
    assert "Data: source prepared, examples 5,259." in blocks["train"]
    assert rows(blocks["calibration"])[2:] == [["plain Transformer, batch 16", "51.2 examples/s", "at least 50: met"]]


def test_growth_is_a_table_and_a_figure(results: Path, document: Path) -> None:
    save_growth(results)
    save_growth(results, "growth-gpu.json", "A GPU")
    blocks = generate(results, document)
    assert "![Time by vocabulary](figures/growth-vocabulary.svg)" in blocks["growth"]
    assert "![Time by vocabulary](figures/growth-vocabulary-gpu.svg)" in blocks["gpu"]
    assert rows(blocks["growth"])[:5] == [
        ["vocabulary", "training step, ms", "greedy decoding, ms"],
        ["---", "---", "---"],
        ["100", "5.00 (4.00 to 9.00)", "2.00 (2.00 to 2.00)"],
        ["200", "8.00 (7.00 to 8.50)", "3.00 (2.50 to 4.00)"],
        ["400", "16.0 (12.0 to 16.5)", "3.50 (3.00 to 4.00)"],
    ]
    figures = document.parent / "figures"
    # Nothing was measured at a second context or batch, so there is nothing to draw.
    assert sorted(path.name for path in figures.iterdir()) == ["growth-vocabulary-gpu.svg", "growth-vocabulary.svg"]
    check_figure(figures / "growth-vocabulary.svg")


def save_techniques(folder: Path, name: str = "techniques.json", device: str = "cpu") -> None:
    series, figures = [], []
    for part, technique, replaces, fast, slow in (
        ("training", "one look-up", "a `[B, T]` look-up each", (2.0, 1.0, 4.0), (10.0, 11.0, 9.0)),
        ("decoding", "stop at EOS", "always 51 steps", (3.0,), (4.5,)),
    ):
        pair = [f"{part}: {technique}", f"{part}: {technique}: {replaces}"]
        series += [Series(name, "ms for a batch", times) for name, times in zip(pair, (fast, slow), strict=True)]
        figures.append(Figure(pair[0], "x", sorted(slow)[len(slow) // 2] / sorted(fast)[len(fast) // 2]))
    save(folder, name, "techniques", device, series=series, figures=figures, notes=["Untrained."])


def test_each_technique_stands_beside_what_it_replaces(results: Path, document: Path) -> None:
    save_techniques(results)
    save_techniques(results, "techniques-gpu.json", "A GPU")
    blocks = generate(results, document)
    training = ["one look-up", "a `[B, T]` look-up each", "a batch", "2.00", "10.0", "5.00 x"]
    decoding = ["stop at EOS", "always 51 steps", "a batch", "3.00", "4.50", "1.50 x"]
    assert rows(blocks["techniques-training"])[2:] == [training]
    assert rows(blocks["techniques-decoding"])[2:] == [decoding]
    assert [row for row in rows(blocks["gpu"]) if row[-1].endswith(" x")] == [training, decoding]
    for name in ("techniques-training", "techniques-decoding"):
        assert "`ctsm bench techniques` (techniques.json). Machine: processor An 8086" in blocks[name]
        assert "Untrained." in blocks[name]


def test_systems_are_a_table(results: Path, document: Path) -> None:
    series = [Series("KEMP, fp32", "examples/s", (10.0, 12.0, 11.0))]
    save(results, "systems.json", "systems", series=series, notes=["CASE is left out."])
    block = generate(results, document)["systems"]
    assert ["KEMP, fp32", "11.0", "10.0", "12.0", "examples/s", "3"] in rows(block)
    assert "CASE is left out." in block


def check_figure(path: Path) -> None:
    """The figure has labels with units, greys only, and a line through the medians of each kind on doubling scales."""
    svg = path.read_text(encoding="utf-8")
    texts = {"".join(one.itertext()) for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"vocabulary (words)", "time (ms)", "training step", "greedy decoding", "100", "200", "400"} <= texts
    colours = re.findall(r"#([0-9a-f]{6})\b", svg)
    assert colours
    assert all(colour[:2] == colour[2:4] == colour[4:] for colour in colours)
    lines = [
        np.array([float(number) for number in re.findall(r"[-\d.]+", path)]).reshape(-1, 2)
        for path in re.findall(r'<path d="(M[-\d.\sL]+)"', svg)
    ]
    for times in TIMES.values():
        expected = np.array([[math.log(size), math.log(sorted(values)[1])] for size, values in times.items()])
        assert any(len(line) == 3 and is_scaled(line, expected) for line in lines)


def is_scaled(line: np.ndarray, expected: np.ndarray) -> bool:
    """Whether each coordinate is an affine map of the expected one, upwards being smaller in SVG."""
    for place, sign in ((0, 1), (1, -1)):
        slope, shift = np.polyfit(expected[:, place], line[:, place], 1)
        if slope * sign <= 0 or not np.allclose(slope * expected[:, place] + shift, line[:, place], atol=1e-3):
            return False
    return True


def test_generating_again_changes_nothing_and_the_rest_stays(results: Path, document: Path) -> None:
    def outside() -> str:
        text = document.read_text(encoding="utf-8")
        return re.sub(r"begin \(x\) -->\n.*?<!-- bench", "", text, flags=re.DOTALL)

    before = outside()
    save_training(results)
    save_growth(results)
    generate(results, document)
    assert outside() == before
    assert "\nold\n" not in document.read_text(encoding="utf-8")
    files = [document, *sorted((document.parent / "figures").iterdir())]
    first = [path.read_bytes() for path in files]
    generate(results, document)
    assert [path.read_bytes() for path in files] == first


def test_drawing_needs_the_extra(
    results: Path, document: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    save_training(results)
    generate(results, document)
    before = document.read_bytes()
    save_growth(results)
    assert "pip install 'ctsm[plot]'" in error(capsys, results, document)
    assert document.read_bytes() == before


def test_reports_that_are_none(results: Path, document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in error(capsys, results / "nowhere", document)
    saved = save(results, "train.json", "train", series=[Series("x", "ms", (1.0,))])
    value = json.loads(saved.read_text(encoding="utf-8"))
    for broken in ([], {**value, "schema": 2}, {**value, "series": [{"name": "x"}]}, {**value, "machine": None}):
        saved.write_text(json.dumps(broken), encoding="utf-8")
        assert "train.json: is not a report of `ctsm bench`" in error(capsys, results, document)
    saved.write_text("{", encoding="utf-8")
    assert "train.json" in error(capsys, results, document)
    saved.write_text(json.dumps(value), encoding="utf-8")
    save(results, "again.json", "train")
    assert "second report of `ctsm bench train`" in error(capsys, results, document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# No markers\n", "mend the markers"),
        ("<!-- bench train: begin -->\n", "mend the markers"),
        ("<!-- bench train: begin -->\n<!-- bench reply: end -->\n", "mend the markers"),
        ("<!-- bench train: begin -->\n<!-- bench train: end -->\n" * 2, "mend the markers"),
        ("<!-- bench cakes: begin -->\n<!-- bench cakes: end -->\n", "no block 'cakes'"),
    ],
)
def test_documents_that_are_none(
    text: str, message: str, results: Path, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document.write_text(text, encoding="utf-8")
    assert message in error(capsys, results, document)
    assert document.read_text(encoding="utf-8") == text


def test_a_document_that_is_not_there(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.md: cannot be read" in error(capsys, results, tmp_path / "nowhere.md")


def test_the_performance_page_is_what_the_saved_reports_give(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "results" / "bench"
    folder.mkdir(parents=True)
    for path in (ROOT / "docs" / "results" / "bench").glob("*.json"):
        shutil.copy(path, folder)
    page = tmp_path / "docs" / "performance.md"
    shutil.copy(ROOT / "docs" / "performance.md", page)
    figures = tmp_path / "docs" / "figures"
    assert main(["bench", "report", str(folder), "--document", str(page), "--figures", str(figures)]) == 0
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for figure in figures.glob("*.svg"):
        assert (ROOT / "docs" / "figures" / figure.name).is_file()
