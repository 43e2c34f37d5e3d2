#!/bin/sh
# The whole pipeline on the sample that comes with the package: about a minute on two cores.
set -eu

data=prepared/sample
run=runs/sample

step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

rm -rf "$run"
mkdir -p runs
step ctsm prepare --dialogues sample --vad sample --inferences atomic:sample --vector-size 64 --out "$data"
step ctsm train configs/sample.yaml --data "$data" --out "$run"
step ctsm evaluate "$run" --data "$data" --split test
cat > runs/situations.jsonl <<'SITUATIONS'
{"context": ["My grandmother is in the hospital and I do not know if she will get better."]}
{"context": ["I passed my driving test today after three tries!"]}
{"context": ["Someone took my lunch from the fridge at work again."]}
SITUATIONS
step ctsm generate "$run" runs/situations.jsonl --out runs/replies.jsonl
printf '\nThree situations the model has not seen:\n'
python - <<'PYTHON'
import json

with open("runs/replies.jsonl", encoding="utf-8") as stream:
    for line in stream:
        reply = json.loads(line)
        print(f"\n  speaker: {reply['context'][0]}\n  model:   {reply['reply']}   [{reply['predicted']}]")
PYTHON
cat <<'END'

This is a toy: a few hundred short conversations, a 64-wide model, seconds of training. Its replies are often beside
the point and its scores say nothing about CTSM. For a real model, fetch and prepare the real data and train with
configs/ctsm.yaml: README.md, "The pipeline on the real data".
Talk to the toy with: .venv/bin/ctsm chat runs/sample
END
