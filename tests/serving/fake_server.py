"""The real server with the fake engine, as a process: `python -m tests.serving.fake_server`."""

from __future__ import annotations

import os
import sys

from quantop_serving.server import serve
from quantop_serving.settings import parse

from tests.serving.fake_engine import FakeEngine


def main() -> int:
    """Serve; `FAKE_PAUSE` is the seconds that each token takes."""
    pause = float(os.environ.get("FAKE_PAUSE", "0.01"))
    return serve(parse(sys.argv[1:]), lambda _: FakeEngine(pause=pause, context_length=4096))


if __name__ == "__main__":
    sys.exit(main())
