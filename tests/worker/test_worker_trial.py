"""The trial stage against a fake engine that speaks the protocols over real HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from quantop.contract import Stage, TrialResult, TrialTask
from quantop_worker.errors import RefusedError, StageError, TryAgainError
from quantop_worker.progress import Progress
from quantop_worker.stages import trial
from quantop_worker.stages.trial import ANSWER_TOKENS, EngineMemory, Run

from tests.worker.fake_engine import BALLAST_BYTES, EACH_SECONDS, FIRST_SECONDS, MODEL
from tests.worker.harness import REPOSITORY


@contextmanager
def engine(mode: str = "well") -> Iterator[tuple[int, int]]:
    """A fake engine; its port and its process."""
    command = [sys.executable, "-m", "tests.worker.fake_engine", mode]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()


def asked(mode: str = "well", protocol: str = "OpenAI") -> TrialResult:
    with engine(mode) as (port, _):
        task = TrialTask(protocol=protocol, port=port, model_name=MODEL)
        return trial.run(task, Progress(Stage.TRIAL))


def test_what_the_engine_takes_is_what_is_told() -> None:
    """The fake's times are the least that can be measured; a busy machine only adds to them."""
    shown = asked()
    assert shown.protocol == "trial-v1"
    assert shown.runs == 5
    assert shown.output_tokens == ANSWER_TOKENS
    assert shown.prompt_tokens == len(" ".join(trial.SENTENCES).split())
    assert FIRST_SECONDS * 1000 < shown.time_to_first_token_milliseconds < FIRST_SECONDS * 3000
    assert shown.tokens_per_second is not None
    assert 1 / EACH_SECONDS / 3 < shown.tokens_per_second < 1 / EACH_SECONDS
    rest = (ANSWER_TOKENS - 1) / shown.tokens_per_second * 1000
    assert shown.answer_milliseconds == pytest.approx(shown.time_to_first_token_milliseconds + rest)
    assert shown.processor


def test_no_request_finds_the_beginning_of_another_in_a_cache() -> None:
    beginnings = {sentence[:20] for sentence in trial.SENTENCES}
    assert len(beginnings) == trial.RUNS + 1


def test_tokens_that_the_engine_does_not_count_are_those_that_come() -> None:
    shown = asked("uncounted")
    assert (shown.output_tokens, shown.prompt_tokens) == (ANSWER_TOKENS, 0)
    assert shown.tokens_per_second is not None


@pytest.mark.parametrize("protocol", ["OpenAIEmbeddings", "OpenInferenceV2"])
def test_an_engine_that_reads_a_text_whole_has_no_tokens_per_second(protocol: str) -> None:
    shown = asked(protocol=protocol)
    assert shown.tokens_per_second is None
    assert shown.time_to_first_token_milliseconds > FIRST_SECONDS * 1000
    assert shown.answer_milliseconds == shown.time_to_first_token_milliseconds
    assert shown.output_tokens == 0


@pytest.mark.parametrize(
    ("mode", "kind", "reason", "said"),
    [
        ("refuses", RefusedError, "EngineRefused", "HTTP 404 to POST /v1/completions: {"),
        ("silent", RefusedError, "EngineSilent", "without text"),
        ("busy", TryAgainError, "EngineFailed", "HTTP 503"),
        ("breaks", TryAgainError, "EngineFailed", "broke off its answer to POST /v1/completions"),
    ],
)
def test_an_engine_that_does_not_answer_is_told(
    mode: str, kind: type[StageError], reason: str, said: str
) -> None:
    with pytest.raises(kind) as caught:
        asked(mode)
    assert caught.value.reason == reason
    assert said in caught.value.message


def test_an_engine_that_is_not_there_is_worth_another_try() -> None:
    with engine() as (port, _):
        pass
    with pytest.raises(TryAgainError, match="ConnectionRefusedError"):
        trial.run(TrialTask(protocol="OpenAI", port=port, model_name=MODEL), Progress(Stage.TRIAL))


def test_another_protocol_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        trial.run(TrialTask(protocol="Other", port=1, model_name=MODEL), Progress(Stage.TRIAL))
    assert caught.value.reason == "UnsupportedProtocol"


def test_the_stage_answers_as_the_operator_reads_it(tmp_path: Path) -> None:
    with engine() as (port, _):
        task = TrialTask(protocol="OpenAI", port=port, model_name=MODEL)
        log = tmp_path / "termination"
        environment = {
            "PYTHONPATH": str(REPOSITORY / "operator"),
            "QUANTOP_TASK": task.to_json(),
            "QUANTOP_NODE": "node-a",
            "TERMINATION_LOG": str(log),
        }
        command = [sys.executable, "-m", "quantop_worker", "trial"]
        subprocess.run(command, env=os.environ | environment, check=True)
    shown = TrialResult.model_validate(json.loads(log.read_text()))
    assert (shown.stage, shown.node) == (Stage.TRIAL, "node-a")
    assert shown.peak_memory_bytes is not None


def test_the_memory_of_a_process_is_its_most() -> None:
    with engine() as (_, pid):
        memory = EngineMemory()
        memory.look()
        assert BALLAST_BYTES < memory.peaks[str(pid)] < BALLAST_BYTES * 3
        assert str(os.getpid()) not in memory.peaks
    memory.look()
    assert memory.peaks[str(pid)] > BALLAST_BYTES, "what has ended counts as it was"


def test_the_engine_is_all_processes_of_the_pod_but_ours(tmp_path: Path) -> None:
    def process(number: int, status: str) -> None:
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "status").write_text(status)

    user = f"Uid:\t{os.getuid()}\t0\t0\t0"
    process(1, f"Name:\tpause\n{user}\nVmHWM:\t    1024 kB\n")
    process(7, f"Name:\tengine\n{user}\nVmHWM:\t    2048 kB\n")
    process(8, f"Name:\tworker of it\n{user}\nVmHWM:\t    512 kB\n")
    process(9, f"Name:\tkthread\n{user}\n")
    process(10, f"Name:\tsomebody else\nUid:\t{os.getuid() + 1}\t0\t0\t0\nVmHWM:\t 4096 kB\n")
    process(os.getpid(), f"Name:\tpython\n{user}\nVmHWM:\t    8192 kB\n")
    memory = EngineMemory(tmp_path)
    assert memory.total is None
    memory.look()
    assert memory.total == (2048 + 512) * 1024


def test_one_token_has_no_rate() -> None:
    assert Run(0.1, 0.1, 1).tokens_per_second is None
    assert Run(0.1, 1.1, 11).tokens_per_second == 10
