"""`python -m quantop_serving`: serve one model with onnxruntime-genai."""

from __future__ import annotations

import sys

from quantop_serving.engine import Engine
from quantop_serving.server import serve
from quantop_serving.settings import parse


def main() -> int:
    """Read the settings and serve."""
    settings = parse(sys.argv[1:])

    def load() -> Engine:
        # Imported here, in the loading thread: the health routes answer meanwhile.
        from quantop_serving.engines.onnxruntime_genai import OnnxRuntimeGenAiEngine

        return OnnxRuntimeGenAiEngine(settings.model_dir, settings.threads)

    return serve(settings, load)


if __name__ == "__main__":
    sys.exit(main())
