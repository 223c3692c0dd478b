"""``python -m quantop_worker STAGE``: run one stage with the task in ``QUANTOP_TASK``."""

import argparse
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import TypeVar

from pydantic import ValidationError
from quantop.contract import (
    TASK_VARIABLE,
    TERMINATION_MESSAGE_BYTES,
    ConversionTask,
    DeleteTask,
    FailureResult,
    Message,
    PullTask,
    ReportTask,
    Stage,
    TrialTask,
)

from quantop_worker.errors import RefusedError, StageError, TryAgainError
from quantop_worker.progress import Progress

STAGES = tuple(stage for stage in Stage if stage not in (Stage.QUANTIZE, Stage.EVALUATE))
TERMINATION_LOG = "/dev/termination-log"
Task = TypeVar("Task", bound=Message)

TERMINATED = 128 + signal.SIGTERM


def main() -> int:
    """Run the stage that the command line names; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m quantop_worker", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    stage = Stage(parser.parse_args().stage)
    signal.signal(signal.SIGTERM, _terminate)
    os.umask(0o022)
    try:
        _answer(_run(stage, os.environ.get(TASK_VARIABLE, ""), Progress(stage)))
        return 0
    except StageError as error:
        _fail(stage, error)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        _fail(
            stage, TryAgainError("InternalError", f"{type(error).__name__} in the {stage} stage.")
        )
        return 1


def _run(stage: Stage, task: str, progress: Progress) -> Message:
    """Each stage loads only what it needs: starting takes as long as many a transfer."""
    match stage:
        case Stage.RESOLVE:
            from quantop_worker.stages import resolve

            return resolve.run(_parsed(ConversionTask, task), progress)
        case Stage.FETCH:
            from quantop_worker.stages import fetch

            return fetch.run(_parsed(ConversionTask, task), progress)
        case Stage.PUBLISH:
            from quantop_worker.stages import publish

            return publish.run(_parsed(ConversionTask, task), progress)
        case Stage.PULL:
            from quantop_worker.stages import pull

            return pull.run(_parsed(PullTask, task), progress)
        case Stage.TRIAL:
            from quantop_worker.stages import trial

            return trial.run(_parsed(TrialTask, task), progress)
        case Stage.REPORT:
            from quantop_worker.stages import report

            return report.run(_parsed(ReportTask, task), progress)
        case Stage.DELETE:
            from quantop_worker.stages import delete

            return delete.run(_parsed(DeleteTask, task), progress)
    raise ValueError(stage)


def _parsed(kind: type[Task], text: str) -> Task:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise RefusedError(
            "InvalidTask",
            f"{TASK_VARIABLE} is no task of this version ({where}: {first['msg']}): operator and "
            f"worker image must be of neighbouring versions.",
        ) from error


def _fail(stage: Stage, error: StageError) -> None:
    result = FailureResult(stage=stage, reason=error.reason, message=error.message)
    while len(result.to_json().encode()) > TERMINATION_MESSAGE_BYTES:
        shorter = result.message[: len(result.message) * 3 // 4]
        result = result.model_copy(update={"message": shorter})
    print(json.dumps({"level": "error"} | result.model_dump()), file=sys.stderr, flush=True)
    _answer(result)


def _answer(result: Message) -> None:
    text = result.to_json()
    print(text, flush=True)
    path = Path(os.environ.get("TERMINATION_LOG", TERMINATION_LOG))
    if path.parent.is_dir():
        path.write_text(text, encoding="utf-8")


def _terminate(number: int, frame: FrameType | None) -> None:
    """End at once: every stage can be killed at any moment, so there is nothing to tidy up."""
    os._exit(TERMINATED)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads may wait for a server that does not answer: nothing of theirs is needed any more.
    os._exit(code)
