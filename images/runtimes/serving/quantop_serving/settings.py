"""What the server is told on its command line and by its environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantop_disclosure import disclosed


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; times in seconds, sizes in bytes."""

    model_dir: Path
    model_name: str
    """The name that clients ask for."""
    host: str = "0.0.0.0"
    port: int = 8080
    threads: int = 1
    """CPU threads of the engine: the container's CPU limit."""
    max_running: int = 4
    """Generations at once; the CPU is theirs together."""
    max_waiting: int = 64
    """Requests that may wait for one of them; more are refused with 429."""
    max_context: int = 4096
    """Tokens of prompt and answer together, where the model allows more. The engine sets memory
    aside for all that a request may come to: some 256 KiB per token of an 8B model."""
    max_body_bytes: int = 4 * 1024 * 1024
    drain_linger: float = 5.0
    """After SIGTERM, go on accepting for so long: proxies learn late that a pod is gone."""
    drain_timeout: float = 300.0
    """After SIGTERM, end what still runs after so long."""
    artifact: Mapping[str, str] = field(default_factory=dict)
    """What is disclosed of the artifact, by the names of `quantop_disclosure`."""


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the command line; what the pod's environment says is the default."""
    default = Settings(model_dir=Path(), model_name="")
    parser = argparse.ArgumentParser(prog="quantop_serving")

    def integer(flag: str, value: int, least: int = 0) -> None:
        def read(text: str) -> int:
            if int(text) < least:
                raise argparse.ArgumentTypeError(f"at least {least}")
            return int(text)

        parser.add_argument(flag, type=read, default=value)

    def required(flag: str, variable: str) -> None:
        value = environment.get(variable)
        parser.add_argument(flag, default=value, required=not value, help=f"default: ${variable}")

    required("--model-dir", "MODEL_DIR")
    required("--model-name", "MODEL_NAME")
    parser.add_argument("--host", default=default.host)
    integer("--port", int(environment.get("PORT", default.port)))
    integer("--threads", int(environment.get("CPU_LIMIT", default.threads)), least=1)
    integer("--max-running", default.max_running, least=1)
    integer("--max-waiting", default.max_waiting)
    integer("--max-context", default.max_context, least=2)
    integer("--max-body-bytes", default.max_body_bytes, least=1)
    parser.add_argument("--drain-linger", type=float, default=default.drain_linger)
    parser.add_argument("--drain-timeout", type=float, default=default.drain_timeout)
    options = vars(parser.parse_args(arguments))
    return Settings(
        model_dir=Path(options.pop("model_dir")),
        artifact=disclosed(environment),
        **options,
    )
