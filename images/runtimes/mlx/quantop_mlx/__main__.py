"""`python -m quantop_mlx`: serve one model with mlx-lm."""

from __future__ import annotations

import sys

from quantop_serving.engine import Engine
from quantop_serving.server import serve
from quantop_serving.settings import Settings, parse


def load(settings: Settings) -> Engine:
    """Load the model. The library is imported here, while the health routes answer already."""
    from quantop_mlx.engine import MlxEngine

    return MlxEngine(settings.model_dir, settings.max_running)


if __name__ == "__main__":
    sys.exit(serve(parse(sys.argv[1:]), load))
