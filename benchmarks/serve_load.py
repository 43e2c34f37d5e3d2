"""Measures `ctsm serve` under load: many clients on loopback, each with one request at a time.

    python benchmarks/serve_load.py RUN [--clients 64] [--requests 50] [--stream] [--explain] [--json FILE]

The service runs in a process of its own. Every conversation is first asked alone; each reply under load must equal the
lone one. A batch computes sums in another order, so words closer than 1e-4 can change places, and no others: where a
reply differs, the model must come to it by taking its second best word at such places alone. With --explain each client
asks as the web page does: for the reply, then for what it rests on.
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
from typing import Any, NamedTuple

import httpx

import ctsm
from ctsm.corpus.reader import listener_turns, read_dialogues
from ctsm.corpus.sample import sample_path
from ctsm.serving.responder import Responder
from ctsm.text.tokenise import tokenise

TIE = 1e-4
GOAL_P50, GOAL_P99 = 0.8, 1.5
"""Seconds, of 64 clients with 50 requests each on two cores."""
CHAT, EXPLAIN = "/v1/chat/completions", "/v1/explain"
MOST_PATHS = 100
"""Ways through ties that are tried to account for one reply."""


class Answer(NamedTuple):
    """One answer: the route, which conversation, the reply (None for an error) and the seconds until it was whole."""

    route: str
    which: int
    reply: str | None
    seconds: float


@dataclass
class Outcome:
    """What came of a load; times are seconds to a whole reply.

    Attributes:
        requests: for replies; with `explain` there are as many for explanations.
        different: answers with another reply than the lone one, for which ties do not account.
        ties: those for which they do.
        p50_met: whether `p50` is at most the goal for 64 clients with 50 requests each.
        p99_met: the same of `p99`.
        explain_p50: of explanations; None without.
        explain_p99: of explanations; None without.
    """

    clients: int
    requests: int
    stream: bool
    explain: bool
    errors: int
    different: int
    ties: int
    seconds: float
    per_second: float
    p50: float
    p99: float
    slowest: float
    p50_met: bool
    p99_met: bool
    explain_p50: float | None
    explain_p99: float | None
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
    if answer.url.path == EXPLAIN:
        return str(answer.json()["reply"]["content"])
    if not stream:
        return str(answer.json()["choices"][0]["message"]["content"])
    events = answer.text.split("\n\n")
    if events[-2:] != ["data: [DONE]", ""]:
        return None
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


async def load(
    url: str, bodies: Sequence[dict[str, Any]], clients: int, requests: int, explain: bool = False
) -> tuple[list[Answer], float]:
    """Let clients ask in turn; returns the answers and the time for all."""

    async def ask(http: httpx.AsyncClient, route: str, which: int) -> Answer:
        body, begun = bodies[which], time.perf_counter()
        sent = body if route == CHAT else {"model": body["model"], "messages": body["messages"]}
        try:
            reply = reply_of(await http.post(route, json=sent), body["stream"])
        except httpx.HTTPError:
            reply = None
        return Answer(route, which, reply, time.perf_counter() - begun)

    async def client(number: int) -> list[Answer]:
        answers = []
        async with httpx.AsyncClient(base_url=url, timeout=120) as http:
            for turn in range(requests):
                which = (number * requests + turn) % len(bodies)
                for route in (CHAT, EXPLAIN) if explain else (CHAT,):
                    answers.append(await ask(http, route, which))
        return answers

    begun = time.perf_counter()
    results = await asyncio.gather(*(client(number) for number in range(clients)))
    return [answer for answers in results for answer in answers], time.perf_counter() - begun


class Step(NamedTuple):
    """The two best words of a decoding step and how far apart they are (in log-probability)."""

    best: int
    second: int
    gap: float


def follow(responder: Responder, turns: Sequence[str], forced: Sequence[int]) -> tuple[str, list[Step]]:
    """Begin a reply with some words, go on greedily, and return its text and its steps."""
    import torch

    from ctsm.decoding.next_words import NextWords
    from ctsm.decoding.options import DecodingOptions
    from ctsm.decoding.single import follow as grow
    from ctsm.text.detokenise import detokenise

    model, options, steps = responder.bundle.model, DecodingOptions(), list[Step]()

    def choose(state: Any, source: Any, said_NT: Any, _rows: Any) -> Any:
        candidates = next_words.best(state, source, said_NT, 2)
        best, second = candidates.ids[0].tolist()
        gap = candidates.log_probability[0, 0] - candidates.log_probability[0, 1]
        word = forced[len(steps)] if len(steps) < len(forced) else best
        steps.append(Step(best, second, float(gap)))
        return torch.tensor([word]), candidates.log_probability[:, 0]

    with torch.inference_mode():
        collated = responder.collate([turns])
        encoded = model.encode(collated.batch)
        next_words = NextWords.of(model, options, encoded.memory.device)
        (reply,) = grow(model, encoded, options.max_tokens, choose)
    return detokenise(responder.bundle.vocabulary.words_of(reply.words, collated.contexts[0].oov)), steps


def is_tie(responder: Responder, turns: Sequence[str], other: str) -> bool:
    """Tell whether a reply differs from the greedy one by ties alone: at each difference the words are that close."""
    paths, tried = [list[int]()], 0
    while paths and tried < MOST_PATHS:
        forced = paths.pop(0)
        tried += 1
        text, steps = follow(responder, turns, forced)
        if text == other:
            return True
        said = [*forced, *(step.best for step in steps[len(forced) :])]
        ties = [place for place, step in enumerate(steps) if place >= len(forced) and step.gap < TIE]
        paths += [[*said[:place], steps[place].second] for place in ties]
    return False


def percentiles(answers: Sequence[Answer], route: str) -> list[float]:
    """Return p50, p99 and the longest of the times that a route took; nothing without answers."""
    seconds = sorted(answer.seconds for answer in answers if answer.route == route)
    places = (len(seconds) // 2, int(len(seconds) * 0.99), len(seconds) - 1) if seconds else ()
    return [round(seconds[place], 3) for place in places]


def measure(run: Path, clients: int, requests: int, stream: bool, explain: bool, words: Sequence[str]) -> Outcome:
    """Serve a run, ask alone, ask together, stop."""
    with service(run, words) as (process, url):
        name = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        asked = conversations(clients * requests)
        lone, _ = asyncio.run(load(url, [body(turns, name, False) for turns in asked], 1, len(asked)))
        alone = [answer.reply for answer in lone]
        bodies = [body(turns, name, stream) for turns in asked]
        asyncio.run(load(url, bodies, clients, 1, explain))  # the first batches meet new shapes
        answers, seconds = asyncio.run(load(url, bodies, clients, requests, explain))
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    responder = ctsm.load(run, care="--no-care" not in words)
    differing = {(a.which, a.reply) for a in answers if a.reply is not None and a.reply != alone[a.which]}
    ties = {pair for pair in differing if is_tie(responder, asked[pair[0]], pair[1])}
    p50, p99, slowest = percentiles(answers, CHAT)
    explain_p50, explain_p99, _ = percentiles(answers, EXPLAIN) or (None, None, None)
    return Outcome(
        clients=clients,
        requests=clients * requests,
        stream=stream,
        explain=explain,
        errors=sum(answer.reply is None for answer in answers) + alone.count(None),
        different=sum((answer.which, answer.reply) in differing - ties for answer in answers),
        ties=sum((answer.which, answer.reply) in ties for answer in answers),
        seconds=round(seconds, 2),
        per_second=round(len(answers) / seconds, 1),
        p50=p50,
        p99=p99,
        slowest=slowest,
        p50_met=p50 <= GOAL_P50,
        p99_met=p99 <= GOAL_P99,
        explain_p50=explain_p50,
        explain_p99=explain_p99,
        words=round(sum(len(tokenise(answer.reply or "")) for answer in answers) / len(answers), 1),
        exit_code=code,
    )


def summary(outcome: Outcome) -> str:
    """Say in words how long replies took and whether the goals are met."""
    figures = (("p50", outcome.p50, GOAL_P50, outcome.p50_met), ("p99", outcome.p99, GOAL_P99, outcome.p99_met))
    return "\n".join(
        f"{name} {value:.3f} s, goal {goal} s (64 clients x 50 requests, two cores): {'met' if met else 'not met'}"
        for name, value, goal, met in figures
    )


def main() -> int:
    """Measure and print; the exit code is 1 if a request failed or a reply differed that was no tie.

    Slowness is a figure and not a failure.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run or model directory")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=50, help="of each client")
    parser.add_argument("--stream", action="store_true", help="ask for streams")
    parser.add_argument("--explain", action="store_true", help="ask for an explanation after each reply")
    parser.add_argument("--json", type=Path, help="write the outcome there too")
    arguments, words = parser.parse_known_args()
    load_options = (arguments.clients, arguments.requests, arguments.stream, arguments.explain)
    outcome = measure(arguments.run, *load_options, words)
    text = json.dumps(asdict(outcome), indent=2)
    print(text)
    print(summary(outcome), file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return int(outcome.errors > 0 or outcome.different > 0 or outcome.exit_code != 0)


if __name__ == "__main__":
    sys.exit(main())
