"""trial: how the engine in the same pod does, asked as a user would: protocol ``trial-v1``.

docs/reference/quality.md says what each figure is, and what it is not.
"""

import contextlib
import http.client
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantop.contract import NODE_VARIABLE, TrialResult, TrialTask

from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.processor import processor
from quantop_worker.progress import Progress

PROTOCOL = "trial-v1"
RUNS = 5
"""Requests that are measured, after one that is not."""
ANSWER_TOKENS = 64
TIMEOUT_SECONDS = 600.0
"""For which nothing at all may come: of the slowest model on the smallest node."""
PROC = Path("/proc")

SENTENCES = (
    "The harbour wakes before the town does, and long before the first ferry the fishermen have "
    "spread their nets along the quay to look for holes that the night has torn.",
    "An old clock in the customs house strikes five, a little late as always, and the gulls answer "
    "it with a noise that visitors take for a quarrel.",
    "Behind the warehouses a baker carries trays of bread to a van whose engine has been running "
    "for ten minutes, because it does not start twice on a cold morning.",
    "Two children who should be asleep count the lights of the ships that wait outside, and write "
    "the number on the wall beside those of the days before.",
    "When the fog lifts, the pilot's boat goes out with three people on board, one of whom has "
    "never been at sea and holds on to the rail with both hands.",
    "By noon nobody remembers how quiet it was: cranes turn, lorries queue up to the bridge, and a "
    "voice reads out the names of those who have left a bag behind.",
)
"""One for each request to begin with, so that none finds the beginning of another in a cache."""


@dataclass(frozen=True)
class Run:
    """One request. Times are in seconds since it was sent."""

    first: float
    last: float
    output_tokens: int = 0
    prompt_tokens: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """How fast tokens followed the first; None where none did."""
        if self.output_tokens < 2 or self.last <= self.first:
            return None
        return (self.output_tokens - 1) / (self.last - self.first)


@dataclass
class EngineMemory:
    """The most memory that each process of the engine had in use, as the kernel counts it."""

    proc: Path = PROC
    peaks: dict[str, int] = field(default_factory=dict)
    """Bytes, by process."""

    def look(self) -> None:
        """Look at all processes of the pod that are not our own: the engine's. One that ends
        between two looks counts as it was at the first."""
        ours = {"1", str(os.getpid())}  # 1 holds the pod's namespaces and does nothing else.
        for path in self.proc.glob("[0-9]*/status"):
            if path.parent.name not in ours and (peak := _peak(path)):
                self.peaks[path.parent.name] = peak

    @property
    def total(self) -> int | None:
        """The sum; None where no process can be seen."""
        return sum(self.peaks.values()) or None


def run(task: TrialTask, progress: Progress) -> TrialResult:
    """Warm the engine up, ask it some times, one after another, and tell how it did."""
    ask = {"OpenAI": _complete, "OpenAIEmbeddings": _embed, "OpenInferenceV2": _infer}.get(
        task.protocol
    )
    if ask is None:
        raise RefusedError(
            "UnsupportedProtocol",
            f"the ModelRuntime's protocol is {task.protocol}, by which no trial can be made here: "
            "use a worker image of the operator's version.",
        )
    memory = EngineMemory()
    runs = []
    for number in range(RUNS + 1):
        what = f"request {number} of {RUNS}" if number else "a request to warm up"
        progress.begin(what)
        runs.append(ask(task, number))
        memory.look()
    return _result(runs[1:], memory.total)


def _result(runs: list[Run], memory: int | None) -> TrialResult:
    first = statistics.median(run.first for run in runs) * 1000
    rates = [rate for run in runs if (rate := run.tokens_per_second) is not None]
    rate = statistics.median(rates) if rates else None
    generates = any(run.output_tokens for run in runs)
    answer = first if not generates else None
    if rate is not None:
        answer = first + (ANSWER_TOKENS - 1) * 1000 / rate
    return TrialResult(
        protocol=PROTOCOL,
        time_to_first_token_milliseconds=first,
        tokens_per_second=rate,
        answer_milliseconds=answer,
        peak_memory_bytes=memory,
        runs=len(runs),
        prompt_tokens=int(statistics.median(run.prompt_tokens for run in runs)),
        output_tokens=int(statistics.median(run.output_tokens for run in runs)),
        node=os.environ.get(NODE_VARIABLE, ""),
        processor=processor(),
    )


def _complete(task: TrialTask, number: int) -> Run:
    """A greedy continuation of all sentences, streamed, by OpenAI's protocol."""
    body = {
        "model": task.model_name,
        "prompt": " ".join(SENTENCES[number:] + SENTENCES[:number]),
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    times: list[float] = []
    usage: dict[str, Any] = {}
    began = time.monotonic()
    for chunk in _events(task, "/v1/completions", body):
        if "error" in chunk:
            raise TryAgainError(
                "EngineFailed", f"the engine broke off: {str(chunk['error'])[:512]}"
            )
        choices = chunk.get("choices") or [{}]
        if choices[0].get("text"):
            times.append(time.monotonic() - began)
        usage = chunk.get("usage") or usage
    if not times:
        raise RefusedError("EngineSilent", "the engine answered POST /v1/completions without text.")
    # An engine that does not count is taken to send one token at a time.
    tokens = int(usage.get("completion_tokens", len(times)))
    return Run(times[0], times[-1], tokens, int(usage.get("prompt_tokens", 0)))


def _embed(task: TrialTask, number: int) -> Run:
    """One sentence, read whole, by OpenAI's protocol."""
    body = {"model": task.model_name, "input": SENTENCES[number]}
    return _whole(task, "/v1/embeddings", body, "data")


def _infer(task: TrialTask, number: int) -> Run:
    """One sentence, read whole, by the Open Inference Protocol."""
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [SENTENCES[number]]}
    return _whole(task, f"/v2/models/{task.model_name}/infer", {"inputs": [text]}, "outputs")


def _whole(task: TrialTask, path: str, body: dict[str, Any], answers: str) -> Run:
    """A request whose answer comes at once, in the field `answers`."""
    began = time.monotonic()
    with _answer(task, path, body) as answer:
        if not json.loads(answer.read()).get(answers):
            raise RefusedError("EngineSilent", f"the engine answered without {answers}.")
    took = time.monotonic() - began
    return Run(took, took)


def _events(task: TrialTask, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The JSON of a stream's events, as they come."""
    with _answer(task, path, body) as answer:
        for line in answer:
            said = line.removeprefix(b"data:").strip()
            if said == b"[DONE]":
                return
            if line.startswith(b"data:"):
                yield json.loads(said)
        # http.client takes a connection that was closed early for the end.
        raise http.client.IncompleteRead(b"")


@contextlib.contextmanager
def _answer(task: TrialTask, path: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    """The engine's answer to a POST, while the context lasts."""
    connection = http.client.HTTPConnection("127.0.0.1", task.port, timeout=TIMEOUT_SECONDS)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            said = answer.read(512).decode(errors="replace")
            message = f"the engine answered HTTP {answer.status} to POST {path}: {said}"
            if answer.status == http.client.TOO_MANY_REQUESTS or answer.status >= 500:
                raise TryAgainError("EngineFailed", message)
            raise RefusedError("EngineRefused", message)
        yield answer
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TryAgainError(
            "EngineFailed",
            f"the engine broke off its answer to POST {path} ({type(error).__name__}: "
            f"{str(error)[:256]}).",
        ) from error
    finally:
        connection.close()


def _peak(status: Path) -> int | None:
    """``VmHWM`` of a process of our own user, in bytes; None of a thread of the kernel's, or where
    the process is gone."""
    try:
        fields = dict(
            line.split(":", 1) for line in status.read_text(errors="replace").splitlines() if line
        )
    except OSError:
        return None
    if "VmHWM" not in fields or int(fields["Uid"].split()[0]) != os.getuid():
        return None
    return int(fields["VmHWM"].split()[0]) * 1024
