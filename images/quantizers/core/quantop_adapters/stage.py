"""One stage of a conversion Job: environment in; files, progress lines and a message out.

A stage's exit status is 0 when done, 3 when refused (trying again cannot help) and anything else
when it failed and may be tried again. A container that is restarted finds what its predecessor
finished by `state/quantize.done` or the quality file, both written last.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from quantop_adapters import checkpoint, perplexity
from quantop_adapters.comparison import Comparison
from quantop_adapters.coverage import Coverage
from quantop_adapters.refusal import RefusedError

TERMINATION_MESSAGE_BYTES = 4096
DEFAULT_METHOD = "Default"
"""How a Quantizer names a toolchain's only way; the same as no name at all."""
TRIAL_WINDOW = tuple(range(32))
"""Token ids that an artifact is tried on where no evaluation text is given."""
EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_TERMINATED = 0, 1, 3, 128 + signal.SIGTERM


@dataclass(frozen=True)
class Calibration:
    """A calibration text, how many windows of it to use and how many tokens each holds."""

    file: Path
    samples: int
    sequence_length: int


@dataclass(frozen=True)
class Evaluation:
    """An evaluation text, the tokens of one window and the tokens used at most."""

    file: Path
    sequence_length: int
    max_tokens: int


@dataclass(frozen=True)
class Task:
    """What the operator asks for; an empty `method` is the precision's default."""

    source: Path
    artifact: Path
    state: Path
    quality: Path
    model_name: str
    format: str
    precision: str
    method: str
    calibration: Calibration | None
    evaluation: Evaluation | None
    threads: int
    bits_per_weight_min: Decimal | None
    bits_per_weight_max: Decimal | None

    @property
    def window_length(self) -> int:
        """Tokens that the artifact's engine is asked to hold while it is measured."""
        return self.evaluation.sequence_length if self.evaluation else len(TRIAL_WINDOW)

    @property
    def scratch(self) -> Path:
        """A folder beside the artifact for files on the way to it; gone when the stage is done."""
        return self.artifact.with_name(self.artifact.name + ".scratch")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Task:
        """Read the contract's variables.

        Raises:
            KeyError: a variable of the contract is missing.
            ValueError: a number is not one.
        """
        work = Path(environment.get("WORK_DIR") or "/work")
        calibration = environment.get("CALIBRATION_FILE", "")
        evaluation = environment.get("EVALUATION_FILE", "")
        low, high = (environment.get(f"BITS_PER_WEIGHT_{end}", "") for end in ("MIN", "MAX"))
        return cls(
            source=Path(environment.get("SOURCE_DIR") or work / "source"),
            artifact=Path(environment.get("ARTIFACT_DIR") or work / "artifact"),
            state=work / "state",
            quality=Path(environment.get("QUALITY_FILE") or work / "state" / "quality.json"),
            model_name=environment["MODEL_NAME"],
            format=environment["FORMAT"],
            precision=environment["PRECISION"],
            method=environment.get("METHOD", "").replace(DEFAULT_METHOD, ""),
            calibration=Calibration(
                Path(calibration),
                int(environment.get("CALIBRATION_SAMPLES") or 256),
                int(environment.get("CALIBRATION_SEQUENCE_LENGTH") or 512),
            )
            if calibration
            else None,
            evaluation=Evaluation(
                Path(evaluation),
                int(environment.get("EVALUATION_SEQUENCE_LENGTH") or 256),
                int(environment.get("EVALUATION_MAX_TOKENS") or 20_000),
            )
            if evaluation
            else None,
            threads=max(1, int(environment.get("OMP_NUM_THREADS") or 1)),
            bits_per_weight_min=Decimal(low) if low else None,
            bits_per_weight_max=Decimal(high) if high else None,
        )


class Toolchain(Protocol):
    """What a toolchain's module provides, beside what it is measured by: the artifact's `scorer`
    (`Scoring`), or figures of its own (`Measuring`). Everything else is common."""

    name: str
    format: str
    precisions: tuple[str, ...]

    def version(self) -> str:
        """The tool's version, as its makers count."""

    def quantize(self, task: Task, target: Path, progress: Progress) -> None:
        """Write the artifact's files into the empty folder `target`.

        Raises:
            RefusedError: the checkpoint or the recipe cannot be converted by this tool.
        """

    def coverage(self, artifact: Path) -> Coverage:
        """Count weights and their stored bits from the artifact's own tensors."""

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """The artifact's tokens and their ids, from its own files."""


class Scoring(Toolchain, Protocol):
    """A toolchain for models that predict the next token."""

    def scorer(self, task: Task) -> perplexity.Scorer:
        """Load the artifact into its own engine; the result scores one window of token ids.

        Raises:
            RefusedError: the engine cannot load it, or a number in it is not finite.
        """


@runtime_checkable
class Measuring(Toolchain, Protocol):
    """A toolchain for other models, of which it knows what to measure."""

    def measure(self, task: Task, progress: Progress) -> dict[str, object]:
        """Load the artifact into its own engine and compare it with its source on the evaluation
        text, or try it where there is none; the protocol and the measurements by their names.

        Raises:
            RefusedError: the engine cannot load it, a number is not finite, or the text does not
                suit the model.
        """


@dataclass(frozen=True)
class Progress:
    """Writes progress as one JSON line at a time on stdout."""

    stage: str

    def __call__(self, message: str, percent: int | None = None, size: int | None = None) -> None:
        """Report what happens now; `percent` of the stage, `size` in bytes."""
        line: dict[str, object] = {"stage": self.stage, "message": message}
        if percent is not None:
            line["percent"] = percent
        if size is not None:
            line["bytes"] = size
        print(json.dumps(line), flush=True)


def termination_text(document: Mapping[str, object], limit: int = TERMINATION_MESSAGE_BYTES) -> str:
    """The document as JSON of at most `limit` bytes, its `message` shortened where need be."""
    message = str(document.get("message", ""))
    text = json.dumps(document, ensure_ascii=False)
    while len(text.encode()) > limit and message:
        excess = len(text.encode()) - limit
        message = message[: max(0, len(message) - max(1, excess // 4) - 1)]
        text = json.dumps({**document, "message": message + "…"}, ensure_ascii=False)
    return text


def terminate_with(document: Mapping[str, object]) -> None:
    """Leave the termination message where the kubelet reads it, and on stderr for the log."""
    text = termination_text(document)
    print(text, file=sys.stderr, flush=True)
    path = os.environ.get("TERMINATION_MESSAGE_PATH") or "/dev/termination-log"
    try:
        Path(path).write_text(text)
    except OSError as error:
        print(f"no termination message: {error}", file=sys.stderr)


def write_last(path: Path, text: str) -> None:
    """Write a file that says "finished" by being there: in one step, on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)


def is_published(task: Task) -> bool:
    """Whether fetch found artifact and measurements in the store: there is nothing left to do."""
    return (task.state / "published.json").is_file()


def is_finished(task: Task) -> bool:
    """Whether the artifact is there: by an earlier run of this stage, or fetched from the store
    to be measured on another text. A Job has one recipe, so the marker's content says nothing."""
    return (task.state / "quantize.done").is_file() and task.artifact.is_dir()


def quantize(toolchain: Toolchain, task: Task) -> dict[str, object]:
    """Make the artifact, or find it made; what the termination message says.

    Raises:
        RefusedError: the recipe cannot be followed.
    """
    progress = Progress("quantize")
    if is_published(task) or is_finished(task):
        progress("the artifact is finished already", 100)
        return {"message": "finished before"}
    if task.format != toolchain.format:
        raise RefusedError(
            "UnsupportedFormat",
            f"spec.quantization.format is {task.format}; {toolchain.name} writes "
            f"{toolchain.format}",
        )
    if task.precision not in toolchain.precisions:
        raise RefusedError(
            "UnsupportedPrecision",
            f"spec.quantization.precision is {task.precision}; {toolchain.name} makes "
            f"{', '.join(toolchain.precisions)}",
        )
    checkpoint.check(task.source)
    if task.calibration:
        checkpoint.check_length(
            task.source,
            "spec.quantization.calibration.sequenceLength",
            task.calibration.sequence_length,
        )
    target = task.artifact.with_name(task.artifact.name + ".partial")
    for leftover in (task.artifact, task.scratch, target):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in (target, task.scratch):
        folder.mkdir(parents=True)
    toolchain.quantize(task, target, progress)
    shutil.rmtree(task.scratch, ignore_errors=True)
    # Some tools write files that only their owner can read, but what serves them may run as another
    # user.
    size = 0
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        size += path.stat().st_size if path.is_file() else 0
    target.rename(task.artifact)
    write_last(task.state / "quantize.done", "")
    progress("artifact finished", 100, size)
    return {"bytes": size, "files": sum(path.is_file() for path in task.artifact.rglob("*"))}


def choose_method(task: Task, methods: Mapping[str, bool], toolchain: str) -> str:
    """The method asked for, or the first; `methods` says which of them need text.

    Raises:
        RefusedError: there is no such method, or calibration is missing or of no use.
    """
    method = task.method or next(iter(methods))
    if method not in methods:
        raise RefusedError(
            "UnsupportedMethod",
            f"spec.quantization.method is {method}; {toolchain} makes {task.precision} by "
            f"{', '.join(methods)}",
        )
    if methods[method] and not task.calibration:
        raise RefusedError(
            "CalibrationRequired",
            f"{task.precision} by {method} needs text: set spec.quantization.calibration",
        )
    if task.calibration and not methods[method]:
        raise RefusedError(
            "CalibrationNotUsed",
            f"{task.precision} by {method} uses no text: remove "
            "spec.quantization.calibration, or choose a method that does",
        )
    return method


def evaluate(toolchain: Scoring | Measuring, task: Task) -> dict[str, object]:
    """Measure the artifact and write the quality file; what the termination message says.

    Whatever the limits are, an artifact that is not whole, is not what the recipe promises, reads
    text otherwise than its source or cannot be loaded by its engine goes no further.

    Raises:
        RefusedError: it is such an artifact, or the text is too short.
    """
    progress = Progress("evaluate")
    if is_published(task):
        progress("the measurements are published already", 100)
        return {"message": "published before"}
    if task.quality.is_file():
        progress("the measurements are finished already", 100)
        return {**json.loads(task.quality.read_text()), "message": "finished before"}
    progress("counting the artifact's tensors", 0)
    coverage = count(toolchain, task)
    progress("loading the artifact", 5)
    if isinstance(toolchain, Measuring):
        measured = toolchain.measure(task, progress)
    else:
        measured = predict(toolchain, task, progress)
    quality: dict[str, Any] = {
        **measured,
        **coverage.report(),
        "tool": {"name": toolchain.name, "version": toolchain.version()},
        "evaluationSkipped": task.evaluation is None,
    }
    write_last(task.quality, json.dumps(quality, indent=1) + "\n")
    progress("measurements finished", 100)
    return quality


def count(toolchain: Toolchain, task: Task) -> Coverage:
    """What the artifact's own files say that the recipe did.

    Raises:
        RefusedError: it is not what the recipe promises, or they cannot be read.
    """
    try:
        coverage = toolchain.coverage(task.artifact)
        vocabulary = toolchain.vocabulary(task.artifact)
    except MemoryError:
        raise
    except Exception as error:  # whatever a parser says of a file that is cut off or garbled
        traceback.print_exc()
        raise RefusedError(
            "ArtifactNotReadable",
            f"{toolchain.name} left files that cannot be read back as {task.format} "
            f"({type(error).__name__}: {checkpoint.first_sentence(error)}): the conversion went "
            "wrong; look at the log of its quantize stage",
        ) from error
    coverage.check(
        task.precision,
        task.bits_per_weight_min,
        task.bits_per_weight_max,
        checkpoint.layer_numbers(task.source),
    )
    checkpoint.check_vocabulary(task.source, vocabulary)
    return coverage


def predict(toolchain: Scoring, task: Task, progress: Progress) -> dict[str, object]:
    """Have the artifact predict next tokens, beside its source where there is a text.

    Raises:
        RefusedError: what it gives are no finite numbers, or the text is too short.
    """
    artifact = toolchain.scorer(task)
    measured: dict[str, object] = {
        "protocol": perplexity.PROTOCOL,
        "baselinePerplexity": None,
        "perplexity": None,
        "tokens": 0,
    }
    if task.evaluation:
        return measured | compare(task, task.evaluation, artifact, progress)
    trial = Comparison()
    # Compared with itself, it is run once: only whether it gives numbers is asked.
    trial.add(TRIAL_WINDOW, *itertools.tee(artifact(TRIAL_WINDOW)))
    perplexity.perplexity(trial.artifact, "artifact")
    return measured


def compare(
    task: Task, evaluation: Evaluation, artifact: perplexity.Scorer, progress: Progress
) -> dict[str, object]:
    """Score source and artifact on the evaluation text; the measurements by their names.

    Raises:
        RefusedError: the text is too short, or a perplexity is not finite.
    """
    length = evaluation.sequence_length
    checkpoint.check_length(task.source, "spec.quality.evaluation.sequenceLength", length)
    tokens = checkpoint.token_ids(task.source, perplexity.read_text(evaluation.file))
    windows = perplexity.windows(tokens[: evaluation.max_tokens], length)
    progress("loading the source", 10)
    source = perplexity.transformers_scorer(task.source, "source")
    comparison = Comparison()
    for index, window in enumerate(windows):
        if index % max(1, len(windows) // 16) == 0:
            progress("comparing the artifact with its source", 15 + 84 * index // len(windows))
        comparison.add(window, source(window), artifact(window))
    return comparison.report()


class ToolError(Exception):
    """A command line tool ended with an error; the message holds its last lines."""


_child: subprocess.Popen[str] | None = None


def run_tool(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a tool and return what it printed, which also goes to stderr as it comes.

    Raises:
        ToolError: its exit status was not 0.
    """
    global _child
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        _child = process
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            print(line, end="", file=sys.stderr, flush=True)
            if on_line:
                on_line(line)
    _child = None
    if process.returncode:
        how = (
            f"was ended by {signal.Signals(-process.returncode).name}"
            if process.returncode < 0
            else f"exited with {process.returncode}"
        )
        raise ToolError(f"{Path(command[0]).name} {how}: " + " | ".join(lines[-12:]))
    return "\n".join(lines)


def _stop(_number: int, _frame: object) -> None:
    """End at once: nothing needs tidying, a restarted stage wipes what is unfinished."""
    if _child:
        _child.kill()
    os._exit(EXIT_TERMINATED)


def failure(stage: str, error: BaseException) -> dict[str, object]:
    """The termination message of a stage that failed and may be tried again."""
    reason = "ToolFailed" if isinstance(error, ToolError) else f"{stage.capitalize()}Failed"
    if isinstance(error, MemoryError):
        reason = "OutOfMemory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "DiskFull"
    return {"stage": stage, "reason": reason, "message": f"{type(error).__name__}: {error}"}


def peak_memory() -> int:
    """The most bytes that this process, or one of its tools, held at a time."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * max(resource.getrusage(each).ru_maxrss for each in who)


def main(toolchain: Scoring | Measuring, arguments: Sequence[str] | None = None) -> int:
    """Run the stage named on the command line; the exit status."""
    stages = {"quantize": quantize, "evaluate": evaluate}
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1 or given[0] not in stages:
        print(f"usage: python -m quantop_adapters.<toolchain> {'|'.join(stages)}", file=sys.stderr)
        return 2
    stage = given[0]
    # The first process of a container has no default action for signals.
    signal.signal(signal.SIGTERM, _stop)
    os.umask(0o022)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    try:
        task = Task.from_environment(os.environ)
        # The tokenizers' thread pool does not read OMP_NUM_THREADS.
        os.environ.setdefault("RAYON_NUM_THREADS", str(task.threads))
        began = time.monotonic()
        said = stages[stage](toolchain, task)
        took = {"seconds": round(time.monotonic() - began), "peakMemoryBytes": peak_memory()}
        terminate_with({"stage": stage, **said, **took})
    except RefusedError as refusal:
        terminate_with({"stage": stage, "reason": refusal.reason, "message": str(refusal)})
        return EXIT_REFUSED
    except Exception as error:
        traceback.print_exc()
        terminate_with(failure(stage, error))
        return EXIT_FAILED
    return EXIT_DONE
