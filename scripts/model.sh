#!/bin/sh
# From nothing to a trained model: fetch, prepare, train. What is done is skipped, so the same command goes on after
# an interruption of any kind. `make model` runs it; each variable below can be given to make (docs/fetch.md).
set -eu

: "${DATA:=data}"                 # downloads
: "${PREPARED:=prepared/ed}"      # what training reads
: "${RUN:=runs/ctsm}"             # checkpoints, log and, in RUN/best, the model directory
: "${CONFIG:=configs/ctsm.yaml}"  # of the model and its training
: "${OPTIONS:=}"                  # settings that win over CONFIG's, such as "--training.precision bf16"
: "${MIRROR:=}"                   # a server to download from instead of the publishers'
: "${ACCEPT_TERMS:=}"             # 1 accepts the terms of every resource without being asked

resources="empatheticdialogues glove nrc-vad atomic"
cache="$PREPARED.inferences.jsonl"

step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# $resources and $OPTIONS are lists of words, so they are not quoted.
set --
[ -z "$MIRROR" ] || set -- --mirror "$MIRROR"
python scripts/model_plan.py --data "$DATA" --prepared "$PREPARED" --run "$RUN" --config "$CONFIG" "$@" \
    $resources -- $OPTIONS

if [ -f "$PREPARED/manifest.json" ]; then
    printf '\n%s: already prepared\n' "$PREPARED"
else
    [ "$ACCEPT_TERMS" != 1 ] || set -- "$@" --accept-terms
    step ctsm fetch $resources --to "$DATA" "$@" || {
        code=$?
        [ -t 0 ] || [ "$ACCEPT_TERMS" = 1 ] || echo "With make, ACCEPT_TERMS=1 does what --accept-terms does." >&2
        exit $code
    }
    step ctsm prepare --dialogues "$DATA/empatheticdialogues.tar.gz" --vad "$DATA/NRC-VAD-Lexicon.txt" \
        --vectors "$DATA/glove.6B.zip" --vector-size 300 --inferences "atomic:$DATA/atomic2020.tsv" \
        --inferences-cache "$cache" --out "$PREPARED"
fi
rm -f "$cache"

step ctsm train "$CONFIG" --data "$PREPARED" --out "$RUN" $OPTIONS --resume

printf '\nThe model directory is %s. Talk to it: .venv/bin/ctsm chat %s\n' "$RUN/best" "$RUN/best"
