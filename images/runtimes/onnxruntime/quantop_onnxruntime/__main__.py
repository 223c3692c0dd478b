"""`python -m quantop_onnxruntime`: serve a model by onnxruntime-genai or by ONNX Runtime alone."""

from __future__ import annotations

import sys

from quantop_serving.engine import Engine
from quantop_serving.reader import Reader
from quantop_serving.server import serve, serve_texts
from quantop_serving.settings import Settings, parse


# The libraries are imported where a model is loaded, while the health routes answer already.
def load(settings: Settings) -> Engine:
    """Load a model that generates text."""
    from quantop_onnxruntime.engine import OnnxRuntimeGenAiEngine

    return OnnxRuntimeGenAiEngine(settings.model_dir, settings.threads)


def load_reader(settings: Settings) -> Reader:
    """Load an encoder or a classifier."""
    from quantop_onnxruntime.reader import OnnxRuntimeReader

    return OnnxRuntimeReader(settings.model_dir, settings.threads)


def main() -> int:
    """Serve what lies in the model's folder: only generative models have genai_config.json."""
    settings = parse(sys.argv[1:])
    if (settings.model_dir / "genai_config.json").is_file():
        return serve(settings, load)
    return serve_texts(settings, load_reader)


if __name__ == "__main__":
    sys.exit(main())
