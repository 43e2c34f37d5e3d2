"""The process that `ctsm bench reply` measures: it loads a model, answers, and prints seconds and memory as JSON.

Nothing is imported before the clock runs, so that `load_seconds` is what a first `ctsm.load` costs.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> int:
    """Answer the conversations of the JSON object on standard input."""
    task = json.load(sys.stdin)
    started = time.perf_counter()
    import ctsm

    try:
        responder = ctsm.load(task["directory"], task["device"], care=False)
        load_seconds = time.perf_counter() - started
        from ctsm.decoding.options import DecodingOptions

        options = DecodingOptions(precision=task["precision"])
        conversations = task["conversations"]
        for turns in conversations[: task["warm_up"]]:
            responder.respond(turns, options)
        seconds, words = [], 0
        for turns in conversations:
            started = time.perf_counter()
            response = responder.respond(turns, options)
            seconds.append(time.perf_counter() - started)
            words += len(response.tokens)
    except ctsm.CtsmError as error:
        print(error, file=sys.stderr)
        return 2
    from ctsm.bench.machine import peak_memory

    found = {
        "seconds": seconds,
        "mean_words": words / len(seconds),
        "load_seconds": load_seconds,
        "peak_mib": peak_memory(),
        "vocabulary": len(responder.bundle.vocabulary),
        "inferences": str(responder.bundle.data.inferences["backend"]),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
