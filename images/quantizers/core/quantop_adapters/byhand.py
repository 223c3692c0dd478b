"""Run a stage as the operator does, where the toolchains are: for benchmarks, and by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from quantop_adapters.stage import Task


def task_below(work: Path, source: Path, recipe: tuple[str, str, str], **more: Any) -> Task:
    """A task whose artifact and state are below one folder.

    Args:
        recipe: format, precision and method; no method is the precision's default.
        more: the task's other fields, where they are not empty.
    """
    state = work / "state"
    empty: dict[str, Any] = {
        "calibration": None,
        "evaluation": None,
        "threads": 1,
        "bits_per_weight_min": None,
        "bits_per_weight_max": None,
    }
    return Task(
        source,
        work / "artifact",
        state,
        state / "quality.json",
        source.name,
        *recipe,
        **{**empty, **more},
    )


def run(toolchain: str, stage: str, task: Task) -> tuple[int, dict[str, Any]]:
    """Run a stage of a toolchain's module; its exit status and termination message. What it prints
    is in `STAGE.log` beside the state."""
    work = task.state.parent
    said = work / "termination"
    said.unlink(missing_ok=True)
    environment = {**os.environ, **task.environment(), "TERMINATION_MESSAGE_PATH": str(said)}
    with (work / f"{stage}.log").open("w") as log:
        status = subprocess.run(
            [sys.executable, "-m", f"quantop_adapters.{toolchain}", stage],
            env=environment,
            stdout=log,
            stderr=log,
        ).returncode
    return status, json.loads(said.read_text()) if said.is_file() else {}
