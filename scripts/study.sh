#!/bin/sh
# A whole A/B study on contexts written for it: two models reply, three rules judge, the report is written.
# The judges are not people: their answers show how a study runs and say nothing about the systems.
# Usage: sh scripts/study.sh MODEL_A MODEL_B OUT, where OUT is a new folder
set -eu

[ $# -eq 3 ] || { echo "usage: sh scripts/study.sh MODEL_A MODEL_B OUT" >&2; exit 2; }
out=$3
[ ! -e "$out" ] || { echo "$out: exists already; choose a new folder." >&2; exit 2; }

step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

mkdir -p "$out"
step ctsm generate "$1" docs/examples/contexts.jsonl --out "$out/a.jsonl"
step ctsm generate "$2" docs/examples/contexts.jsonl --out "$out/b.jsonl"
step ctsm judge create "$out/study.db" --pair "sample=$out/a.jsonl,$out/b.jsonl" --annotators 3 --items 20 --seed 1
step python scripts/judge_by_rule.py "$out/study.db"
step ctsm judge report "$out/study.db" -o "$out/report"
