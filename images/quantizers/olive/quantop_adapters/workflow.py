"""Olive's workflows: passes that are run one after another, each on what the last one made."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantop_adapters import stage
from quantop_adapters.onnx_graph import ARTIFACT

Pass = Mapping[str, Any]
Recipes = Mapping[str, Mapping[str, Sequence[Pass]]]
"""The passes of each precision's methods, the default method first: their types and settings as
Olive's documentation has them. What is not listed is not run."""
# How Olive's engine says that a pass failed; its exit status does not.
FAILED = re.compile(r"Pass run failed|is pruned due to failed|Failed to run Olive on")
# The last line of a traceback, which says what the error was.
ERROR = re.compile(r"^(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Fail|NotImplemented): .+")


def version() -> str:
    """Olive's version."""
    return importlib.metadata.version("olive-ai")


def methods(recipes: Recipes) -> dict[str, dict[str, bool]]:
    """The methods of each precision; none of them needs text."""
    return {precision: dict.fromkeys(each, False) for precision, each in recipes.items()}


def run(model: Mapping[str, Any], passes: Sequence[Pass], scratch: Path) -> Path:
    """Run the passes on a model as Olive describes it; the folder that holds `model.onnx`.

    Raises:
        stage.ToolError: a pass failed, or the last one wrote no graph.
    """
    output = scratch / "output"
    system = {
        "type": "LocalSystem",
        "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
    }
    workflow = {
        "input_model": model,
        "systems": {"local": system},
        "host": "local",
        "target": "local",
        "passes": {f"pass{index}": each for index, each in enumerate(passes)},
        "output_dir": str(output),
        "cache_dir": str(scratch / "cache"),
    }
    file = scratch / "workflow.json"
    file.write_text(json.dumps(workflow, indent=1))
    # It reports uses to its makers, unless it is told not to.
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    said = stage.run_tool([sys.executable, "-m", "olive", "run", "--config", str(file)])
    lines = said.splitlines()
    if any(map(FAILED.search, lines)) or not (output / ARTIFACT).is_file():
        errors = [line for line in lines if ERROR.match(line)]
        raise stage.ToolError(
            "olive ended without an error, but "
            + (f"a pass failed: {errors[-1]}" if errors else f"wrote no {ARTIFACT}")
        )
    return output
