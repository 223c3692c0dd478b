"""`python -m quantop_ollama`: serve a GGUF file by Ollama."""

from __future__ import annotations

import logging
import sys
import tempfile
from functools import partial
from pathlib import Path

from quantop_serving.server import run
from quantop_serving.settings import parse

from quantop_ollama.engine import Ollama
from quantop_ollama.front import create_app


def main() -> int:
    """Start Ollama, load the model, and answer for it until a signal comes."""
    settings = parse(sys.argv[1:])
    # It would tell of every request, and Ollama does so already.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    store = Path(tempfile.gettempdir()) / f"ollama-{settings.port}"
    return run(settings, partial(create_app, settings, Ollama(settings, store)))


if __name__ == "__main__":
    sys.exit(main())
