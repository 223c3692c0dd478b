"""Qualcomm's compiler for the Hexagon Tensor Processor (HTP), and its emulator, as ONNX Runtime's
plugin brings them.

    python -m quantop_adapters.htp GRAPH CONTEXT GENERATION

compiles a quantized graph into CONTEXT, a graph of one node, and its binary beside it. It is a
process of its own because compiler and plugin say on stderr alone why they refuse a graph.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

from quantop_adapters import stage
from quantop_adapters.refusal import RefusedError

PROVIDER = "QNNExecutionProvider"
OPTIMIZATION = "3"
"""The most that the compiler does; it takes seconds."""
# An error of the plugin in ONNX Runtime's log: time and place come before what it says. That ONNX
# Runtime's own code ends the session for it says nothing new.
ERROR = re.compile(r"\[E:onnxruntime:[^\]]*, (?!inference_session)[^\]]*\] (.*?)(?:\x1b\[m)?$")
NOT_STARTED = "Unable to load backend"
"""What the plugin says when it is the compiler that is not whole, whatever the graph."""


def session(graph: Path, generation: str, context: Path | None = None) -> Any:
    """A session of the graph on the HTP, here an emulated one, none of it on the CPU; compiled for
    a generation such as V73, and into `context` where that is given."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    plugin: Any = importlib.import_module("onnxruntime_qnn")
    onnxruntime.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    device = next(each for each in onnxruntime.get_ep_devices() if each.ep_name == PROVIDER)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if context:
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_embed_mode", "0")
        options.add_session_config_entry("ep.context_file_path", str(context))
    options.add_provider_for_devices(
        [device],
        {
            "backend_path": plugin.get_qnn_htp_path(),
            "htp_arch": generation.removeprefix("V"),
            "htp_graph_finalization_optimization_mode": OPTIMIZATION,
            # The processor quantizes what it reads, and gives floats.
            "offload_graph_io_quantization": "0",
        },
    )
    found = onnxruntime.InferenceSession(str(graph), options)
    # It would answer what fails by trying the CPU, and fail at that.
    found.disable_fallback()
    return found


def compile_graph(graph: Path, context: Path, generation: str) -> None:
    """Compile in a process of its own.

    Raises:
        RefusedError: the compiler does not take the graph; with what it says.
        stage.ToolError: it crashed, or wrote nothing.
    """
    command = [sys.executable, "-m", "quantop_adapters.htp", str(graph), str(context), generation]
    errors: list[str] = []

    def keep(line: str) -> None:
        found = ERROR.search(line.rstrip())
        if found and found[1] not in errors:
            errors.append(found[1])

    try:
        stage.run_tool(command, on_line=keep)
    except stage.ToolError:
        if not errors or any(NOT_STARTED in error for error in errors):
            raise
        raise RefusedError(
            "GraphNotCompiled",
            f"Qualcomm's compiler refuses the source's graph for the HTP {generation}: "
            f"{' | '.join(errors)[:1000]}; choose another spec.quantization.method or model, or "
            "format ONNXEncoder",
        ) from None
    if not context.is_file() or not list(context.parent.glob(f"{context.stem}*.bin")):
        raise stage.ToolError("the compiler ended without an error, but wrote no context binary")


def version() -> str:
    """The plugin's version."""
    return importlib.metadata.version("onnxruntime-qnn")


if __name__ == "__main__":
    session(Path(sys.argv[1]), sys.argv[3], Path(sys.argv[2]))
