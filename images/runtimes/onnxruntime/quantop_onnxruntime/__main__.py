"""`python -m quantop_onnxruntime`: serve one model with onnxruntime-genai."""

from __future__ import annotations

import sys

from quantop_serving.engine import Engine
from quantop_serving.server import serve
from quantop_serving.settings import Settings, parse


def load(settings: Settings) -> Engine:
    """Load the model. The library is imported here, while the health routes answer already."""
    from quantop_onnxruntime.engine import OnnxRuntimeGenAiEngine

    return OnnxRuntimeGenAiEngine(settings.model_dir, settings.threads)


if __name__ == "__main__":
    sys.exit(serve(parse(sys.argv[1:]), load))
