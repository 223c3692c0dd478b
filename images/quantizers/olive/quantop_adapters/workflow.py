"""Olive's workflows: passes that are run one after another, each on what the last one made."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantop_adapters import stage
from quantop_adapters.onnx_graph import ARTIFACT
from quantop_adapters.refusal import RefusedError

Pass = Mapping[str, Any]
Passes = Sequence[Pass | Sequence[Pass]]
"""What is run one after another. Where there are several in one place, Olive chooses: `search`."""
Recipes = Mapping[str, Mapping[str, Passes]]
"""The passes of each precision's methods, the default method first: their types and settings as
Olive's documentation has them. What is not listed is not run."""
Feed = Mapping[str, Any]
"""What a graph's inputs are given, without the dimension of a batch: lists of integers, or of
numbers that do not count the shape of their array."""
CALIBRATED = ("OnnxStaticQuantization",)
"""Types of passes that need text."""
DATA = "texts"
OUTPUT = "output"
READER = Path(__file__).with_name("olive_texts.py")
"""By which Olive reads the text."""
# How Olive's engine says that a pass failed; its exit status does not.
FAILED = re.compile(r"Pass run failed|is pruned due to failed|Failed to run Olive on")
KILLED = "was ended by SIG"
# The last line of a traceback, which says what the error was.
ERROR = re.compile(r"^(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Fail|NotImplemented): .+")


def version() -> str:
    """Olive's version."""
    return importlib.metadata.version("olive-ai")


def methods(recipes: Recipes) -> dict[str, dict[str, bool]]:
    """The methods of each precision, and whether they need text."""
    return {
        precision: {method: needs_text(passes) for method, passes in each.items()}
        for precision, each in recipes.items()
    }


def needs_text(passes: Passes) -> bool:
    """Whether one of them calibrates, or is chosen by what it makes of texts."""
    return any(not isinstance(each, Mapping) or each["type"] in CALIBRATED for each in passes)


def places(passes: Passes) -> list[list[Pass]]:
    """The passes that may be run in each place."""
    return [[each] if isinstance(each, Mapping) else list(each) for each in passes]


def choose(task: stage.Task, recipes: Recipes, toolchain: str) -> tuple[str, Passes]:
    """The method's name and its passes; the recipe's own workflow where there is one.

    Raises:
        RefusedError: there is no such method, or calibration is missing or of no use.
    """
    listed = recipes[task.precision]
    if task.workflow:
        listed = {stage.WORKFLOW_METHOD: task.workflow}
    method = stage.choose_method(task, methods({"": listed})[""], toolchain)
    return method, listed[method]


def run(
    task: stage.Task,
    model: Mapping[str, Any],
    passes: Passes,
    feeds: Iterable[Feed] = (),
) -> Path:
    """Run the passes on a model as Olive describes it; the folder that holds `model.onnx`.

    `feeds` are the calibration's texts, as the graph's inputs take them.

    Raises:
        stage.ToolError: a pass failed, or the last one wrote no graph.
    """
    told = configuration(task, model, passes)
    if needs_text(passes):
        told["data_configs"] = [data(task.scratch, DATA, feeds)]
    lines = execute(task, ["-m", "olive", "run", "--config"], told)
    if any(map(FAILED.search, lines)):
        raise failure(lines)
    return output(task, lines)


def configuration(task: stage.Task, model: Mapping[str, Any], passes: Passes) -> dict[str, Any]:
    """A workflow as Olive reads it."""
    system = {
        "type": "LocalSystem",
        "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
    }
    return {
        "input_model": model,
        "systems": {"local": system},
        "host": "local",
        "target": "local",
        "passes": {
            f"pass{index}": [with_data(each) for each in place]
            for index, place in enumerate(places(passes))
        },
        "data_configs": [],
        "output_dir": str(task.scratch / OUTPUT),
        "cache_dir": str(task.scratch / "cache"),
    }


def execute(
    task: stage.Task,
    command: Sequence[str],
    told: Mapping[str, Any],
    on_line: Callable[[str], None] | None = None,
) -> list[str]:
    """Run Olive; the lines that it printed.

    Raises:
        stage.ToolError: its exit status was not 0.
    """
    file = task.scratch / "workflow.json"
    file.write_text(json.dumps(told, indent=1))
    # It reports uses to its makers, unless it is told not to.
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    return stage.run_tool([sys.executable, *command, str(file)], on_line=on_line).splitlines()


def output(task: stage.Task, lines: Sequence[str]) -> Path:
    """The folder that holds `model.onnx`.

    Raises:
        stage.ToolError: it does not, by what Olive printed.
    """
    if not (task.scratch / OUTPUT / ARTIFACT).is_file():
        raise failure(lines)
    return task.scratch / OUTPUT


def failure(lines: Sequence[str]) -> stage.ToolError:
    """The error that Olive printed."""
    errors = [line for line in lines if ERROR.match(line)]
    what = f"a pass failed: {errors[-1]}" if errors else f"wrote no {ARTIFACT}"
    return stage.ToolError(f"olive ended without an error, but {what}")


def final(task: stage.Task, error: stage.ToolError) -> Exception:
    """The refusal of a workflow of the recipe's own that failed, as it would again; an error that
    another try may help stays what it is."""
    if not task.workflow or KILLED in str(error):
        return error
    return RefusedError(
        "WorkflowFailed", f"spec.quantization.workflow cannot be run: {error}; correct it"
    )


def with_data(each: Pass) -> Pass:
    """The pass with the text that it reads, if it reads one."""
    return {**each, "data_config": DATA} if each["type"] in CALIBRATED else each


def data(scratch: Path, name: str, feeds: Iterable[Feed]) -> dict[str, Any]:
    """Texts, as Olive describes them."""
    file = scratch / f"{name}.jsonl"
    file.write_text("".join(json.dumps(feed) + "\n" for feed in feeds))
    dataset = {"type": "quantop_texts", "params": {"file": str(file)}}
    return {"name": name, "user_script": str(READER), "load_dataset_config": dataset}
