"""Measures `ctsm serve` under load: many clients on loopback, each with one request at a time.

    python benchmarks/serve_load.py RUN [--clients 64] [--requests 50] [--stream] [--json FILE]

The service runs in a process of its own. Every conversation is first asked alone; each reply under load must equal the
lone one. Where one differs, the model is asked how close its two best words were at the first difference: a batch
computes sums in another order, so words closer than 1e-4 can change places, and no others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

import ctsm
from ctsm.corpus.reader import listener_turns, read_dialogues
from ctsm.corpus.sample import sample_path
from ctsm.text.tokenise import tokenise

TIE = 1e-4
ROUTE = "/v1/chat/completions"


@dataclass
class Outcome:
    """What came of a load."""

    clients: int
    requests: int
    stream: bool
    errors: int
    different: int
    ties: int
    seconds: float
    per_second: float
    p50: float
    p99: float
    slowest: float
    words: float
    exit_code: int | None = None


@contextmanager
def service(run: Path, words: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `ctsm serve` and yield the process and its address."""
    command = [sys.executable, "-m", "ctsm.cli.main", "serve", str(run), "--port", "0", *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as one:
        try:
            assert one.stdout is not None
            announced = re.search(r" at (http://\S+) ", one.stdout.readline())
            if announced is None:
                sys.exit("The service did not start; run `ctsm serve` by hand to see why.")
            yield one, announced[1]
        finally:
            one.kill()


def conversations(count: int) -> list[list[str]]:
    """Return what was said before replies of the built-in sample."""
    turns = listener_turns(read_dialogues(sample_path("dialogues"))["test"])
    return [list(turn.context) for turn in turns][:count]


def body(turns: Sequence[str], model: str, stream: bool) -> dict[str, Any]:
    """Return the request for a greedy reply."""
    messages = [{"role": "assistant" if place % 2 else "user", "content": turn} for place, turn in enumerate(turns)]
    return {"model": model, "messages": messages, "stream": stream}


def reply_of(answer: httpx.Response, stream: bool) -> str | None:
    """Return the reply's text; None for anything but a whole answer."""
    if answer.status_code != 200:
        return None
    if not stream:
        return str(answer.json()["choices"][0]["message"]["content"])
    events = answer.text.split("\n\n")
    if events[-2:] != ["data: [DONE]", ""]:
        return None
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


async def load(
    url: str, bodies: Sequence[dict[str, Any]], clients: int, requests: int, stream: bool
) -> tuple[list[tuple[int, str | None, float]], float]:
    """Let clients ask in turn; returns (which conversation, reply, seconds) of each request, and the time for all."""

    async def client(number: int) -> list[tuple[int, str | None, float]]:
        done = []
        async with httpx.AsyncClient(base_url=url, timeout=120) as http:
            for turn in range(requests):
                which = (number * requests + turn) % len(bodies)
                begun = time.perf_counter()
                try:
                    reply = reply_of(await http.post(ROUTE, json=bodies[which]), stream)
                except httpx.HTTPError:
                    reply = None
                done.append((which, reply, time.perf_counter() - begun))
        return done

    begun = time.perf_counter()
    results = await asyncio.gather(*(client(number) for number in range(clients)))
    return [one for done in results for one in done], time.perf_counter() - begun


def closest(run: Path, turns: Sequence[str], reply: str, other: str) -> float:
    """Return how far apart the two best words were where two replies to a conversation part (in log-probability)."""
    import torch

    from ctsm.decoding.greedy import greedy_choice
    from ctsm.decoding.next_words import NextWords
    from ctsm.decoding.options import DecodingOptions
    from ctsm.decoding.single import Paths

    responder = ctsm.load(run)
    model, options = responder.bundle.model, DecodingOptions()
    same = next((n for n, (a, b) in enumerate(zip(tokenise(reply), tokenise(other), strict=False)) if a != b), 0)
    with torch.inference_mode():
        encoded = model.encode(responder.collate([turns]).batch)
        choose, next_words = greedy_choice(model, encoded, options), NextWords.of(model, options, encoded.memory.device)
        gaps: list[float] = []

        def watching(state: Any, source: Any, said: Any, rows: Any) -> Any:
            best = next_words.best(state, source, said, 2).log_probability[0]
            gaps.append(float(best[0] - best[1]))
            return choose(state, source, said, rows)

        paths = Paths(model, encoded, watching)
        for _ in range(same + 1):
            paths.step()
    # Tokens of the text are not always those of the reply (contractions): the closest call up to there.
    return min(gaps)


def measure(run: Path, clients: int, requests: int, stream: bool, words: Sequence[str]) -> Outcome:
    """Serve a run, ask alone, ask together, stop."""
    with service(run, words) as (process, url):
        name = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        asked = conversations(clients * requests)
        lone, _ = asyncio.run(load(url, [body(turns, name, False) for turns in asked], 1, len(asked), False))
        alone = [reply for _, reply, _ in lone]
        bodies = [body(turns, name, stream) for turns in asked]
        asyncio.run(load(url, bodies, clients, 1, stream))  # the first batches meet new shapes
        results, seconds = asyncio.run(load(url, bodies, clients, requests, stream))
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    differing = {(which, reply) for which, reply, _ in results if reply is not None and reply != alone[which]}
    ties = {pair for pair in differing if closest(run, asked[pair[0]], alone[pair[0]] or "", pair[1]) < TIE}
    latencies = sorted(latency for _, _, latency in results)
    return Outcome(
        clients=clients,
        requests=len(results),
        stream=stream,
        errors=sum(reply is None for _, reply, _ in results) + alone.count(None),
        different=sum((which, reply) in differing - ties for which, reply, _ in results),
        ties=sum((which, reply) in ties for which, reply, _ in results),
        seconds=round(seconds, 2),
        per_second=round(len(results) / seconds, 1),
        p50=round(latencies[len(latencies) // 2], 3),
        p99=round(latencies[int(len(latencies) * 0.99)], 3),
        slowest=round(latencies[-1], 3),
        words=round(sum(len(tokenise(reply or "")) for _, reply, _ in results) / len(results), 1),
        exit_code=code,
    )


def main() -> int:
    """Measure and print; the exit code is 1 if a request failed or a reply differed that was no tie."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run or model directory")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=50, help="of each client")
    parser.add_argument("--stream", action="store_true", help="ask for streams")
    parser.add_argument("--json", type=Path, help="write the outcome there too")
    arguments, words = parser.parse_known_args()
    outcome = measure(arguments.run, arguments.clients, arguments.requests, arguments.stream, words)
    text = json.dumps(asdict(outcome), indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return int(outcome.errors > 0 or outcome.different > 0 or outcome.exit_code != 0)


if __name__ == "__main__":
    sys.exit(main())
