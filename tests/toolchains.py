"""``python -m tests.toolchains [PYTEST ARGUMENTS]``: the tests that need a toolchain, each with the
interpreter of the image that holds it. `make test` skips them, as no environment can hold all.

The exit status is 1 when one of them is skipped, too.
"""

import os
import shlex
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMAGES = {
    "QUANTOP_TOOLCHAIN_PYTHON": "quantop/quantizer-core",
    "QUANTOP_OLIVE_PYTHON": "quantop/quantizer-olive",
    "QUANTOP_TENSORFLOW_PYTHON": "quantop/quantizer-tensorflow",
    "QUANTOP_MLX_PYTHON": "quantop/runtime-mlx",
}
"""By the variable that names an interpreter which has a toolchain."""
PROGRAMS = {"llama-server": "quantop/runtime-llama-cpp"}
"""What tests start by name."""
FILES = tuple(
    str(ROOT / "tests" / each)
    for each in (
        "adapters/test_adapter_llama_cpp.py",
        "adapters/test_adapter_llama_cpp_encoder.py",
        "adapters/test_adapter_search.py",
        "adapters/test_adapter_tensorflow.py",
        "serving/test_serving_mlx.py",
    )
)


class Skips:
    """Remembers which tests were skipped."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest."""
        if report.skipped:
            self.found.append(report.nodeid)


def program(path: Path, image: str, command: str) -> Path:
    """A program that runs the command in the image. It finds the container engine whatever PATH a
    test sets."""
    start = shlex.join([sys.executable, "-m", "images.run", image, command])
    path.write_text(f'#!/bin/sh\nPATH={shlex.quote(os.environ["PATH"])} exec {start} "$@"\n')
    path.chmod(0o755)
    return path


def main(arguments: list[str]) -> int:
    """Run them."""
    skips = Skips()
    with tempfile.TemporaryDirectory() as folder:
        for variable, image in IMAGES.items():
            os.environ[variable] = str(program(Path(folder, variable), image, "python"))
        for name, image in PROGRAMS.items():
            program(Path(folder, name), image, name)
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        status = pytest.main([*FILES, *arguments], plugins=[skips])
    for each in skips.found:
        print(f"skipped: {each}")
    return int(status) or int(bool(skips.found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
