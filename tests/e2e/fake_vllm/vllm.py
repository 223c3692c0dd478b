"""A fake of vLLM's Python API, which needs a GPU: a precision in its config says how slow it is,
and `broken` that it does not load."""

import json
import time
from pathlib import Path
from typing import Any


class SamplingParams:
    """How to sample."""

    def __init__(self, **asked: Any) -> None:
        self.asked = asked


class LLM:
    """An engine."""

    def __init__(self, folder: str, **_: Any) -> None:
        config = json.loads(Path(folder, "config.json").read_text())
        assert config["num_hidden_layers"] == 32
        if config["quantization_config"] == "broken":
            raise ValueError("no kernel for it")
        self.seconds = config["quantization_config"]

    def generate(self, prompts: list[Any], how: SamplingParams, **_: Any) -> None:
        """Takes its time."""
        time.sleep(self.seconds)
