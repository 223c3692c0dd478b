"""``python -m e2e.elsewhere.serve FOLDER``: on the machine that has the hardware and the engine.

Needs the folder that `collect` wrote, the engine on the PATH, and the standard library: neither
this project's environment nor a cluster. Prints a line for each case and writes `seen.json` beside
them; the exit status is 1 when a case failed.
"""

import argparse
import http.client
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT = "The function returns"
MOST_TOKENS = 600
"""Of the answer in whose middle the engine is told to end."""
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
"""What the drain hook reads."""
START_SECONDS = 400
REQUEST_SECONDS = 120
END_SECONDS = 90
LOG_LINES = 25

Case = Mapping[str, Any]


class FailedError(Exception):
    """A case is not as it should be; the message says how."""


@dataclass(frozen=True)
class Engine:
    """A running engine's API."""

    port: int
    model: str

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask.

        Raises:
            FailedError: it refuses, with its reason.
        """
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps({"model": self.model, **body}).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
                found: dict[str, Any] = json.load(response)
                return found
        except urllib.error.HTTPError as error:
            raise FailedError(f"{path}: {error.code} {error.read()[:500]!r}") from error

    def get(self, path: str) -> tuple[str, Mapping[str, str]]:
        """The answer's text and headers."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=REQUEST_SECONDS) as response:
            return response.read().decode(), {k.lower(): v for k, v in response.headers.items()}

    def complete(self, prompt: str | Sequence[int], most: int, **options: Any) -> dict[str, Any]:
        """The first choice."""
        body = {"prompt": prompt, "max_tokens": most, "temperature": 0, **options}
        found: dict[str, Any] = self.post("/v1/completions", body)["choices"][0]
        return found


@contextmanager
def running(case: Case, folder: Path, log: Path, extra: Sequence[str]) -> Iterator[Engine]:
    """The engine as its container would be started, ended by SIGTERM.

    Raises:
        FailedError: it did not start, with its log's last lines.
    """
    environment = {**os.environ, **case["environment"]}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment["PORT"] = str(free.getsockname()[1])
    # Where the pod would have them.
    for inside, name in case["folders"].items():
        key = "DRAFT_MODEL_DIR" if "draft" in inside else "MODEL_DIR"
        environment[key] = str((folder / "artifacts" / name).resolve())
    environment["PYTHONPATH"] = os.pathsep.join(
        each
        for each in (case["environment"].get("PYTHONPATH"), os.environ.get("PYTHONPATH"))
        if each
    )
    command = [expanded(each, environment) for each in (*case["command"], *extra)]
    with log.open("w") as output:
        output.write(f"{command}\n")
        output.flush()
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    engine = Engine(int(environment["PORT"]), environment["MODEL_NAME"])
    try:
        wait_until_ready(engine, process, log)
        yield engine
        end(engine, process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def expanded(argument: str, environment: Mapping[str, str]) -> str:
    """As Kubernetes expands ``$(NAME)``."""
    for name, value in environment.items():
        argument = argument.replace(f"$({name})", value)
    return argument


def wait_until_ready(engine: Engine, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Raises FailedError: it ended, or is not ready in time."""
    start = time.monotonic()
    while time.monotonic() - start < START_SECONDS:
        if process.poll() is not None:
            raise FailedError(f"it ended with status {process.returncode}: {told(log)}")
        try:
            engine.get("/health")
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise FailedError(f"it is not ready after {START_SECONDS} s: {told(log)}")


def end(engine: Engine, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """End it by SIGTERM while it answers; the answer must come whole.

    Raises:
        FailedError: the answer was cut, or the engine goes on.
    """
    answer: list[str] = []
    begun = threading.Event()

    def read() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=REQUEST_SECONDS)
        body = {
            "model": engine.model,
            "prompt": PROMPT,
            "max_tokens": MOST_TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            for line in connection.getresponse():
                if line.startswith(b"data:"):
                    answer.append(line.removeprefix(b"data:").strip().decode())
                    begun.set()
        except (OSError, http.client.HTTPException) as error:
            answer.append(f"{type(error).__name__}: {error}")
        begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    begun.wait(REQUEST_SECONDS)
    before = len(answer)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        raise FailedError(f"it goes on {END_SECONDS} s after SIGTERM: {told(log)}") from None
    reader.join(REQUEST_SECONDS)
    if answer[-1:] != ["[DONE]"]:
        raise FailedError(f"SIGTERM cut its answer after {len(answer)} parts: {answer[-1:]}")
    if before >= len(answer):
        raise FailedError("its answer was over before SIGTERM: nothing was tried")


def told(log: Path) -> str:
    """A log's last lines that say something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return "\n".join(["", *errors[-5:], "...", *lines[-LOG_LINES:]])


def perplexity(engine: Engine, case: Case, folder: Path) -> float:
    """By the protocol `windows-v1` (images/quantizers/core/quantop_adapters/perplexity.py), the
    engine's own tokens and probabilities."""
    source = folder / "artifacts" / "source"
    begin = json.loads((source / "config.json").read_text())["bos_token_id"]
    text = (folder / "evaluation.txt").read_text()
    asked = {"prompt": text, "add_special_tokens": False}
    ids = [begin, *engine.post("/tokenize", asked)["tokens"]][: case["evaluation"]["maxTokens"]]
    length = case["evaluation"]["sequenceLength"]
    losses: list[float] = []
    for start in range(0, len(ids) - length + 1, length):
        window = ids[start : start + length]
        scored = engine.complete(window, 1, prompt_logprobs=0)["prompt_logprobs"]
        for token, found in zip(window[1:], scored[1:], strict=True):
            losses.append(-found[str(token)]["logprob"])
    if len(losses) != case["quality"]["tokens"]:
        raise FailedError(f"{len(losses)} tokens were scored, not {case['quality']['tokens']}")
    return math.exp(math.fsum(losses) / len(losses))


def check(case: Case, engine: Engine, folder: Path, most_percent: float) -> dict[str, Any]:
    """Ask an engine everything.

    Raises:
        FailedError: it answers nothing, not alike twice, or worse than was measured.
    """
    models = json.loads(engine.get("/v1/models")[0])["data"]
    if [each["id"] for each in models] != [engine.model]:
        raise FailedError(f"it names its models {models}")
    answers = [engine.complete(PROMPT, 24)["text"] for _ in range(2)]
    if not answers[0] or answers[0] != answers[1]:
        raise FailedError(f"it answers {answers}")
    metrics, headers = engine.get("/metrics")
    if missing := [each for each in GAUGES if f"\n{each}{{" not in metrics]:
        raise FailedError(f"its metrics lack {missing}")
    if "quantop_disclosure.DiscloseArtifact" in " ".join(case["command"]):
        told_key = headers.get("x-quantop-artifact-key")
        if told_key != case["environment"]["QUANTOP_ARTIFACT_KEY"]:
            raise FailedError(f"its header says the artifact {told_key}")
    found: dict[str, Any] = {"answer": answers[0]}
    if "draftModel" in case["engine"]:
        accepted = [line for line in metrics.splitlines() if "accepted_tokens_total" in line]
        if not any(float(line.rsplit(" ", 1)[1]) > 0 for line in accepted if line[0] != "#"):
            raise FailedError(f"no token of the draft was accepted: {accepted}")
        return found
    here = perplexity(engine, case, folder)
    source, measured = (
        float(case["quality"][each]) for each in ("baselinePerplexity", "perplexity")
    )
    # An engine may compute in more bits than it was measured in, and no better than the source.
    band = 1 + most_percent / 100
    if not min(source, measured) / band <= here <= measured * band:
        raise FailedError(
            f"perplexity {here:.3f}, measured {measured:.3f}, the source's {source:.3f}"
        )
    return {**found, "perplexity": f"{here:.3f}", "measuredPerplexity": f"{measured:.3f}"}


def device() -> str:
    """The first NVIDIA device's name, or what the processor is called."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]
    return os.uname().machine


def version(engine: str) -> str:
    """What the engine calls itself."""
    said = subprocess.run([engine, "--version"], capture_output=True, text=True).stdout.split()
    return f"{engine} {said[-1]}" if said else engine


def main(arguments: list[str] | None = None) -> int:
    """Serve every case."""
    parser = argparse.ArgumentParser(prog="python -m e2e.elsewhere.serve", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--most-percent", type=float, default=0.5, help="worse than measured")
    parser.add_argument(
        "--engine-argument",
        action="append",
        default=[],
        help="for all, e.g. --engine-argument=--enforce-eager",
    )
    asked = parser.parse_args(arguments)
    logs = asked.folder / "logs"
    logs.mkdir(exist_ok=True)
    begin = time.monotonic()

    def serve(path: Path) -> tuple[str, dict[str, Any]]:
        case = json.loads(path.read_text())
        start = time.monotonic()
        try:
            with running(
                case, asked.folder, logs / f"{path.stem}.log", asked.engine_argument
            ) as engine:
                started = round(time.monotonic() - start)
                found = check(case, engine, asked.folder, asked.most_percent)
            found = {"row": case["row"], "engine": case["engine"], **found, "startSeconds": started}
        except (FailedError, OSError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"
            found = {"row": case["row"], "engine": case["engine"], "failed": why}
        print(f"{time.monotonic() - begin:4.0f} s  {path.stem:32} {json.dumps(found)}", flush=True)
        return path.stem, found

    chosen = [
        each for each in sorted((asked.folder / "cases").glob("*.json")) if asked.only in each.stem
    ]
    with ThreadPoolExecutor(asked.parallel) as pool:
        cases = dict(pool.map(serve, chosen))
    told = asked.folder / "seen.json"
    before = json.loads(told.read_text()) if told.is_file() else {}
    seen = {
        "device": device(),
        "engine": version(json.loads(chosen[0].read_text())["command"][0]) if chosen else "",
        "arguments": asked.engine_argument,
        "cases": {**before.get("cases", {}), **cases},
    }
    told.write_text(json.dumps(seen, indent=1) + "\n")
    failed = [name for name, found in cases.items() if "failed" in found]
    print(f"{len(cases) - len(failed)} of {len(cases)} cases are as they should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
