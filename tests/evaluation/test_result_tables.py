from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from ctsm.errors import CtsmError
from ctsm.evaluation.groups import group_records
from ctsm.evaluation.records import Interval, ResultRecord, VocabularyInfo, write_record
from ctsm.evaluation.tables import Sources, write_tables
from ctsm.evaluation.tables import render_tables as render

Builder = Callable[..., ResultRecord]


def rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header and rule."""
    section = document.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def render_tables(records: dict[Path, ResultRecord]) -> str:
    sources = Sources(Path(), records)
    return render(sources, sources.explain(Path("t.md"), Path("t.md")))


def named(records: dict[str, ResultRecord]) -> dict[Path, ResultRecord]:
    return {Path(name): value for name, value in records.items()}


def test_two_seeds_are_averaged_beside_the_paper(record: Builder):
    common = {"split": "test", "n": 5259, "options": {}}
    text = render_tables(
        named(
            {
                "b.json": record(
                    **common, seed=2, acc=42.0, ppl_example=36.0, dist1=1.0, dist2=4.0, checkpoint_step=9000
                ),
                "a.json": record(
                    **common,
                    acc_interval=Interval(low=32.25, high=43.5),
                    seed=1,
                    acc=44.5,
                    ppl_example=35.0,
                    dist1=1.5,
                    dist2=5.0,
                ),
            }
        )
    )
    paper, ours, difference = rows(text, "Table 1, test split")
    assert paper[:6] == ["CTSM", "paper", "43.41", "34.56", "2.00", "7.34"]
    assert ours[1:6] == ["ours [1]", "43.25", "35.50", "1.25", "4.50"]
    assert ours[6] == "Acc 31.25 to 43.00, PPL 48.50 to 54.75"  # the mean of each end over the seeds
    acc, ppl, dist1, dist2 = (f"{apart / math.sqrt(2):.2f}" for apart in (2.5, 1.0, 0.5, 1.0))  # of two values
    assert ours[7] == f"Acc {acc}, PPL {ppl}, Dist-1 {dist1}, Dist-2 {dist2}"
    made = ["5,259", "2 (1, 2)", "vectors.txt", "atomic", "greedy", "fp32", "3,800 (seed 1), 9,000 (seed 2)"]
    assert ours[8:] == [*made, ""]
    assert difference[1:6] == ["difference", "-0.16", "+0.94", "-0.75", "-2.84"]
    assert set(difference[6:]) == {""}, "it is off by less than 1.0"
    (scores,) = rows(text, "All scores, test split")
    assert f"43.25 ± {acc}" in scores
    assert rows(text, "Table 3, test split") == [paper, ours, difference]
    assert "No current record on test: Transformer, MoEL, MIME, EmpDG, KEMP, CEM, CASE." in text
    (origin,) = rows(text, "How they were made")
    assert origin[-1] == "a.json, b.json"


def test_dev_and_test_are_kept_apart(record: Builder):
    run = {
        "dev.json": record(options={}, split="dev", acc=30.0),
        "test.json": record(options={}, split="test", acc=40.0),
    }
    text = render_tables(named(run))
    test, dev = rows(text, "Table 1, test split"), rows(text, "Table 1, dev split")
    assert [line[1] for line in test] == ["paper", "ours [1]", "difference"]
    assert [line[1] for line in dev] == ["paper (test)", "ours [2]"]
    assert (test[1][2], dev[1][2]) == ("40.00", "30.00")
    assert "These are dev results." in text
    assert "Table 1, train split" not in text
    assert [line[0] for line in rows(text, "All scores, test split")] == ["[1]"]
    assert [line[0] for line in rows(text, "All scores, dev split")] == ["[2]"]


def test_ablations_stand_in_table_3_alone(record: Builder):
    text = render_tables(named({"a.json": record(split="test", variant="w/o TEE", options={}, acc=42.0)}))
    assert "Table 1" not in text
    paper, ours, difference = rows(text, "Table 3, test split")
    assert paper[:3] == ["w/o TEE", "paper", "42.58"]
    assert ours[2] == "42.00"
    assert difference[2] == "-0.58"


def test_a_model_without_emotions_has_no_accuracy(record: Builder):
    bare = record(split="test", model="transformer", options={}, acc=None, top3=None, top5=None)
    paper, ours, difference = rows(render_tables(named({"a.json": bare})), "Table 1, test split")
    assert (paper[2], ours[2], difference[2]) == ("-", "-", "-")
    assert difference[3] == f"{51.2 - 37.73:+.2f}"


def test_unknown_models_and_options_are_listed(record: Builder):
    text = render_tables(named({"a.json": record(model="gru", options={"z": 1, "a": "x|y<z"})}))
    assert "Table 1" not in text
    (line,) = rows(text, "All scores, dev split")
    assert line[1:4] == ["gru", "", "a=x\\|y&lt;z, z=1"]
    with_options = render_tables(named({"a.json": record(options={"vad_default": "neutral"})}))
    assert rows(with_options, "Table 1, dev split")[1][1] == "ours [1] with vad_default=neutral"


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 41},
        {"options": {}},
        {"vectors": "others.txt"},
        {"inferences": "none"},
        {"vocabulary": VocabularyInfo(size=19598, kind="train")},
        {"iterations": 17_250},
        {"decoder": "beam 5"},
        {"max_tokens": 30},
        {"precision": "bf16"},
        {"selected_on": "dev acc"},
        {"data_fingerprint": "other"},
        {"bleu_signature": "nrefs:1|tok:13a"},
    ],
)
def test_different_settings_are_never_averaged(record: Builder, changes: dict[str, object]):
    groups = group_records(named({"a.json": record(seed=1), "b.json": record(seed=2, **changes)}))
    assert [len(group.records) for group in groups] == [1, 1]


def test_seeds_of_one_setting_are_one_group_whatever_made_them(record: Builder):
    other = record(seed=2, commit="fedc", device="cuda", train_seconds=3.0, checkpoint_step=10, ctsm_version="0.2.0")
    (group,) = group_records(named({"b.json": other, "a.json": record(seed=1)}))
    assert group.seeds == "2 (1, 2)"
    assert group.by_seed(lambda run: run.commit) == "0123abcd (seed 1), fedc (seed 2)"
    assert group.mean("acc") == 36.5


def test_two_records_of_one_run_are_refused(record: Builder):
    with pytest.raises(CtsmError, match=r"b\.json: has the same setting and seed as a\.json; set 'status'"):
        render_tables(named({"a.json": record(), "b.json": record(acc=12.0)}))


def test_superseded_records_are_listed_and_not_counted(record: Builder):
    old = record(acc=12.0, status="superseded", superseded_reason="the mask\nwas wrong")
    text = render_tables(named({"a.json": record(options={}), "old.json": old}))
    (line,) = rows(text, "Superseded records")
    assert line[:3] == ["old.json", "dev", "ctsm"]
    assert line[7] == "12.00"
    assert line[-1] == "the mask was wrong"
    assert rows(text, "Table 1, dev split")[1][2] == "36.50"
    alone = render_tables(named({"old.json": old}))
    assert "Table 1" not in alone
    assert "All scores" not in alone
    assert rows(alone, "Superseded records") == [line]


def test_the_text_says_what_it_is_and_depends_on_the_records_alone(record: Builder):
    records = {"a.json": record(seed=1), "b.json": record(seed=2), "c.json": record(variant="w/o SEE")}
    text = render_tables(named(records))
    assert text.startswith("<!-- Generated by `ctsm tables`; do not edit. -->\n")
    assert "- PPL is exp of the mean over examples" in text
    assert render_tables(named(dict(reversed(records.items())))) == text


def test_writing_counts_the_records_and_names_a_wrong_folder(tmp_path: Path, record: Builder):
    for seed in (1, 2):
        write_record(tmp_path / "records" / f"{seed}.json", record(seed=seed))
    assert write_tables(tmp_path / "records", tmp_path / "out" / "results.md") == 2
    assert "## Table 1, dev split" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    with pytest.raises(CtsmError, match="nowhere: no such folder"):
        write_tables(tmp_path / "nowhere", tmp_path / "x.md")
    (tmp_path / "records" / "3.json").write_text("{}")
    before = (tmp_path / "out" / "results.md").read_bytes()
    with pytest.raises(CtsmError, match=r"3\.json: the field 'schema' is missing"):
        write_tables(tmp_path / "records", tmp_path / "out" / "results.md")
    assert (tmp_path / "out" / "results.md").read_bytes() == before


def test_the_tables_lead_to_the_open_points_where_they_were_measured(tmp_path: Path, record: Builder) -> None:
    write_record(tmp_path / "results" / "r.json", record())
    out = tmp_path / "docs" / "t.md"
    write_tables(tmp_path / "results", out)
    assert "open points" not in out.read_text(encoding="utf-8")
    page = tmp_path / "results" / "ambiguities" / "README.md"
    page.parent.mkdir()
    page.write_text("# Open points\n", encoding="utf-8")
    write_tables(tmp_path / "results", out)
    assert "(../results/ambiguities/README.md)" in out.read_text(encoding="utf-8")
