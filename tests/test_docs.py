"""What the documentation and configs/ctsm.yaml say is what the code does."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import yaml

from ctsm.cli import prepare as prepare_verb
from ctsm.config import RunConfig, TrainingOptions, read_config
from ctsm.corpus.extras import NEEDS
from ctsm.corpus.sample import sample_path
from ctsm.evaluation.paper import TABLE_1
from ctsm.models import model_class
from ctsm.models.ctsm import CTSM, CTSMOptions
from ctsm.parser import Parser
from ctsm.resources.catalogue import CATALOGUE

ROOT = Path(__file__).parent.parent
CARD = ROOT / "docs" / "models" / "ctsm.md"


def test_the_papers_configuration_lists_every_setting_and_is_the_default() -> None:
    path = ROOT / "configs" / "ctsm.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(written["options"]) == [field.name for field in fields(CTSMOptions)]
    assert list(written["training"]) == [field.name for field in fields(TrainingOptions)]
    assert read_config(path, []) == RunConfig("ctsm", "", CTSMOptions(), TrainingOptions())


def test_parameter_counts_of_the_model_card() -> None:
    text = CARD.read_text(encoding="utf-8")
    section = text[text.index("## Parameters") : text.index("## What is faithful")]
    rows = re.findall(r"\| `(\w+)`(?:, `(\w+)`)?[^|]*\| ([\d,]+)", section)
    printed = {name: int(count.replace(",", "")) for first, second, count in rows for name in (first, second) if name}
    counted: Counter[str] = Counter()
    for name, parameter in CTSM(CTSMOptions(), 23_712).named_parameters():
        counted[name.split(".")[0]] += parameter.numel()
    assert printed == dict(counted)
    assert f"**{sum(counted.values()):,}**" in section


def test_every_option_of_the_register_is_an_option_of_the_model() -> None:
    text = CARD.read_text(encoding="utf-8")
    named = set(re.findall(r"^\| A\d+ .*\| `(\w+)` \|$", text, re.MULTILINE))
    assert named == {
        "fusion_sharing",
        "vad_default",
        "emotion_pool",
        "decoder_memory",
        "contrastive_negatives",
        "without",
    }
    assert named <= {field.name for field in fields(CTSMOptions)}
    assert len(re.findall(r"^\| A\d+ \|", text, re.MULTILINE)) == 20


def test_the_figure_names_every_equation() -> None:
    root = ElementTree.parse(ROOT / "docs" / "figures" / "ctsm.svg").getroot()
    texts = " ".join("".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text"))
    shown = {int(number) for number in re.findall(r"\((\d+)\)", texts)}
    for first, last in re.findall(r"\((\d+)\)\u2013\((\d+)\)", texts):
        shown.update(range(int(first), int(last) + 1))
    assert set(range(1, 26)) <= shown


def test_the_readmes_data_for_table_1_are_what_its_systems_need() -> None:
    """The commands of "The other systems": every need is prepared, from files that the fetched resources become."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## The other systems") : text.index("## Python")]
    commands = [shlex.split(line) for line in section.replace("\\\n", " ").splitlines() if line.startswith("ctsm ")]
    fetch, prepare = (next(words for words in commands if words[1] == verb) for verb in ("fetch", "prepare"))
    fetched = [CATALOGUE[name] for name in fetch[2:] if name in CATALOGUE]
    assert [*fetch[2:]] == [*(resource.name for resource in fetched), "--accept-terms"]
    options = " ".join(prepare)
    for resource in fetched:
        assert resource.option.format(f"data/{resource.product}") in options
    assert sum("data/" in word for word in prepare) == len(fetched), "no file of another origin"
    needed = {need for row in TABLE_1 for need in model_class(row.model).needs}
    assert needed == set(NEEDS)
    assert all(NEEDS[need].option.split()[0] in prepare for need in needed)
    parser = Parser()
    prepare_verb.add_arguments(parser)
    prepared = parser.parse_args(prepare[2:]).out
    reproduce = next(words for words in commands if words[1] == "reproduce")
    assert Path(reproduce[reproduce.index("--data") + 1]) == prepared


def test_counts_of_the_sample() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    roles = ("dialogues", "vad", "events", "emotion_words", "concepts")
    lines = {role: sample_path(role).read_text(encoding="utf-8").splitlines() for role in roles}
    events = {line.split("\t")[0] for line in lines["events"]}
    assert f"{len(lines['dialogues'])} conversations" in text
    assert f"dominance of {len(lines['vad']) - 1:,} words" in text
    assert f"{len(events)} events with {len(lines['events']):,} phrases" in text
    carriers = {line.split("\t")[0] for line in lines["emotion_words"]}
    assert f"emotions of {len(carriers)} words" in text
    assert f"{len(lines['concepts'])} assertions" in text


def test_the_table_of_precisions_says_what_the_logs_say() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (\d+) \| (\w+)(?: from 2\^\d+)? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| \[.*?\]\((.*?\.jsonl)\) \|$",
        page,
        re.M,
    )
    assert len(rows) == 6
    for seed, precision, *printed, link in rows:
        log = [json.loads(line) for line in (ROOT / "docs" / link).read_text(encoding="utf-8").splitlines()]
        (dev,) = (line for line in log if line["kind"] == "dev" and line["iteration"] == 2_000)
        assert printed == [f"{dev[name]:.2f}" for name in ("ppl_example", "ppl_token", "acc")]
        assert f"seed{seed}" in link
        assert precision == ("fp32" if "6000" in link or "fp32" in link else "bf16")


def test_the_time_of_a_full_run_is_that_of_its_log() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    log = (ROOT / "docs/results/ctsm-17250-seed43.log.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in log]
    assert sum(line["kind"] == "dev" for line in lines) == 10
    assert lines[-1]["iteration"] == 17_250
    assert f"took {lines[-1]['seconds'] / 60:.1f} minutes**" in page
    at = {line["iteration"]: line["seconds"] for line in lines if line["kind"] == "train"}
    first, last = ((at[end] - at[end - 500]) / 500 * 1e3 for end in (1_000, 17_000))
    assert f"A step took {first:.0f} ms at the beginning and {last:.0f} at the end" in " ".join(page.split())


def test_the_gpus_table_and_the_gain_of_one_reply_say_what_the_records_say() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    steps = json.loads((ROOT / "docs/results/gpu/steps.json").read_text(encoding="utf-8"))
    systems = ("ctsm", "moel", "mime", "empdg", "kemp", "case")
    for title, key in (
        ("six processes on one card", "together_without_mps"),
        ("the same with MPS", "together_with_mps"),
    ):
        assert f"| {title} | " + " | ".join(str(steps[key][name]) for name in systems) + " |" in page
    without, with_mps = (
        round(sum(steps[key][name] for name in systems)) for key in ("together_without_mps", "together_with_mps")
    )
    assert f"{without} steps/s without it and {with_mps} with it" in page
    alone = steps["alone"]
    assert f"| alone, not recorded | {alone['ctsm_not_recorded_fp32']} |" in page
    assert f"| alone, recorded | {alone['ctsm_recorded_fp32']} |" in page
    replies = [
        {
            figure["name"]: figure["value"]
            for figure in json.loads((ROOT / f"docs/results/reply/{name}.json").read_text(encoding="utf-8"))["figures"]
        }
        for name in ("before", "after")
    ]
    (before, late_before), (after, late_after) = (
        (one["one reply, median"], one["one reply, 99th percentile"]) for one in replies
    )
    gain = f"median {before:.1f} to {after:.1f} ms, 99th percentile {late_before:.1f} to {late_after:.1f} ms"
    assert gain in " ".join(page.split())
