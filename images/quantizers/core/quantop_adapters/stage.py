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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from quantop_adapters import answers, checkpoint, harness, perplexity
from quantop_adapters.comparison import Comparison
from quantop_adapters.coverage import Coverage, Override
from quantop_adapters.refusal import RefusedError

TERMINATION_MESSAGE_BYTES = 4096
DEFAULT_METHOD = "Default"
"""How a Quantizer names a toolchain's only way; the same as no name at all."""
WORKFLOW_METHOD = "Workflow"
"""What stands for a method where the recipe has a workflow of its own."""
TRIAL_WINDOW = tuple(range(32))
"""Token ids that an artifact is tried on where no evaluation text is given."""
SAMPLE = (
    "The quick brown fox, aged 3.14, jumps over 12345 lazy dogs!\n\n"
    "  def f(x):\n\treturn x['key'] + \"ä€\"\n"
    "It's what they'd've said: http://example.org/a_b?c=d&e=%20 … ½ — 日本語"
)
"""What tokenizers are tried on."""
SAMPLE_LENGTH = 4000
"""Characters of each text given that they are tried on, too."""
EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_TERMINATED = 0, 1, 3, 128 + signal.SIGTERM

Item = TypeVar("Item")


@dataclass(frozen=True)
class Calibration:
    """A calibration text, how many windows of it to use and how many tokens each holds."""

    file: Path
    samples: int
    sequence_length: int


@dataclass(frozen=True)
class Evaluation:
    """What to compare an artifact with its source by: a text, the tokens of one window and the
    tokens used at most; prompts; tasks."""

    file: Path | None
    sequence_length: int
    max_tokens: int
    prompts: answers.Prompts | None = None
    tasks: harness.Tasks | None = None


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
    overrides: tuple[Override, ...] = ()
    max_file_bytes: int | None = None
    workflow: tuple[Mapping[str, Any], ...] = ()
    """Passes to be run in place of a method, in their order."""

    @property
    def benchmark(self) -> Path:
        """Where a toolchain that tries several ways says what it measured of each."""
        return self.state / "benchmark.json"

    @property
    def scratch(self) -> Path:
        """A folder beside the artifact for files on the way to it; gone when the stage is done."""
        return self.artifact.with_name(self.artifact.name + ".scratch")

    @property
    def sample(self) -> str:
        """A text to try a tokenizer on: much of what is hard to split, and what will be read."""
        files = [each.file for each in (self.evaluation, self.calibration) if each]
        read = [perplexity.read_text(file)[:SAMPLE_LENGTH] for file in files if file]
        return "\n".join([SAMPLE, *read])

    def environment(self) -> dict[str, str]:
        """The contract's variables that ask for this task."""
        variables: dict[str, object] = {
            "WORK_DIR": self.state.parent,
            "SOURCE_DIR": self.source,
            "ARTIFACT_DIR": self.artifact,
            "QUALITY_FILE": self.quality,
            "MODEL_NAME": self.model_name,
            "FORMAT": self.format,
            "PRECISION": self.precision,
            "METHOD": self.method,
            "OMP_NUM_THREADS": self.threads,
            "BITS_PER_WEIGHT_MIN": self.bits_per_weight_min,
            "BITS_PER_WEIGHT_MAX": self.bits_per_weight_max,
        }
        if calibration := self.calibration:
            variables |= {
                "CALIBRATION_FILE": calibration.file,
                "CALIBRATION_SAMPLES": calibration.samples,
                "CALIBRATION_SEQUENCE_LENGTH": calibration.sequence_length,
            }
        if evaluation := self.evaluation:
            if evaluation.file:
                variables |= {
                    "EVALUATION_FILE": evaluation.file,
                    "EVALUATION_SEQUENCE_LENGTH": evaluation.sequence_length,
                    "EVALUATION_MAX_TOKENS": evaluation.max_tokens,
                }
            if prompts := evaluation.prompts:
                variables |= {
                    "EVALUATION_PROMPTS_FILE": prompts.file,
                    "EVALUATION_MAX_PROMPTS": prompts.most,
                    "EVALUATION_ANSWER_TOKENS": prompts.answer_tokens,
                }
            if tasks := evaluation.tasks:
                variables |= {
                    "EVALUATION_TASKS_DIR": tasks.folder,
                    "EVALUATION_MAX_SAMPLES": tasks.most,
                }
        return {name: str(value) for name, value in variables.items() if value is not None}

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
        prompts = environment.get("EVALUATION_PROMPTS_FILE", "")
        tasks = environment.get("EVALUATION_TASKS_DIR", "")
        workflow = environment.get("WORKFLOW", "")
        if file := environment.get("WORKFLOW_FILE"):
            workflow = Path(file).read_text()
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
                Path(evaluation) if evaluation else None,
                int(environment.get("EVALUATION_SEQUENCE_LENGTH") or 256),
                int(environment.get("EVALUATION_MAX_TOKENS") or 20_000),
                answers.Prompts(
                    Path(prompts),
                    int(environment.get("EVALUATION_MAX_PROMPTS") or 64),
                    int(environment.get("EVALUATION_ANSWER_TOKENS") or 32),
                )
                if prompts
                else None,
                harness.Tasks(Path(tasks), int(environment.get("EVALUATION_MAX_SAMPLES") or 200))
                if tasks
                else None,
            )
            if evaluation or prompts or tasks
            else None,
            threads=max(1, int(environment.get("OMP_NUM_THREADS") or 1)),
            bits_per_weight_min=Decimal(low) if low else None,
            bits_per_weight_max=Decimal(high) if high else None,
            overrides=tuple(
                Override(**each) for each in json.loads(environment.get("OVERRIDES") or "[]")
            ),
            max_file_bytes=int(environment.get("MAX_FILE_BYTES") or 0) or None,
            workflow=tuple(json.loads(workflow or '{"passes": {}}')["passes"].values()),
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

    def scorer(self, task: Task, length: int) -> perplexity.Scorer:
        """Load the artifact into its own engine, for texts of `length` tokens at most.

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


@runtime_checkable
class Reading(Toolchain, Protocol):
    """A toolchain that reads other sources than safetensors."""

    def check_source(self, source: Path) -> None:
        """Refuse a source before any work.

        Raises:
            RefusedError: it is none that the toolchain reads.
        """

    def layer_numbers(self, task: Task) -> int:
        """How many numbers the source's layers hold.

        Raises:
            RefusedError: the source cannot be read.
        """


@runtime_checkable
class Overriding(Toolchain, Protocol):
    """A toolchain whose `quantize` follows `task.overrides`, and whose `coverage` names weights."""

    override_precisions: tuple[str, ...]


@runtime_checkable
class Composing(Toolchain, Protocol):
    """A toolchain whose `quantize` runs `task.workflow` where there is one."""

    passes: tuple[str, ...]
    """The types of the passes that a workflow may have."""


@runtime_checkable
class Splitting(Toolchain, Protocol):
    """A toolchain whose artifacts can be in several files."""

    def split(self, target: Path, max_file_bytes: int) -> None:
        """Split each file in `target` that is larger.

        Raises:
            RefusedError: what cannot be cut is larger.
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

    def through(self, items: Sequence[Item], message: str, start: int, stop: int) -> Iterator[Item]:
        """The items one by one, reported sixteen times between two percentages."""
        for index, item in enumerate(items):
            if index % max(1, len(items) // 16) == 0:
                self(message, start + (stop - start) * index // len(items))
            yield item


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
    check_extras(toolchain, task)
    if isinstance(toolchain, Reading):
        toolchain.check_source(task.source)
    else:
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
    task.benchmark.unlink(missing_ok=True)
    for folder in (target, task.scratch):
        folder.mkdir(parents=True)
    toolchain.quantize(task, target, progress)
    if task.max_file_bytes and isinstance(toolchain, Splitting):
        progress("splitting the artifact", 95)
        toolchain.split(target, task.max_file_bytes)
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


def check_extras(toolchain: Toolchain, task: Task) -> None:
    """Refuse what of a recipe only some toolchains can follow.

    Raises:
        RefusedError: this one cannot.
    """
    offered = toolchain.override_precisions if isinstance(toolchain, Overriding) else ()
    for override in task.overrides:
        if override.precision not in offered:
            raise RefusedError(
                "UnsupportedOverride",
                f"spec.quantization.overrides names {override.precision}; {toolchain.name} gives "
                f"single tensors {', '.join(offered) or 'no precision of their own'}",
            )
    runs = toolchain.passes if isinstance(toolchain, Composing) else ()
    for each in task.workflow:
        if each["type"] not in runs:
            raise RefusedError(
                "UnsupportedWorkflow",
                f"spec.quantization.workflow has a pass of type {each['type']}; {toolchain.name} "
                f"runs {', '.join(runs) or 'no workflows'}",
            )
    if task.max_file_bytes and not isinstance(toolchain, Splitting):
        raise RefusedError(
            "UnsupportedMaxFileSize",
            f"spec.quantization.maxFileSize is set, but {toolchain.name} splits no files: remove "
            "it",
        )


def choose_method(task: Task, methods: Mapping[str, bool], toolchain: str) -> str:
    """The method asked for, or the first; `methods` says which of them need text.

    Raises:
        RefusedError: there is no such method, or calibration is missing or of no use.
    """
    method = task.method or next(iter(methods))
    is_choice = set(methods) != {DEFAULT_METHOD}
    if method not in methods:
        raise RefusedError(
            "UnsupportedMethod",
            f"spec.quantization.method is {method}; {toolchain} "
            + (
                f"makes {task.precision} by {', '.join(methods)}"
                if is_choice
                else f"has none to choose for {task.precision}: leave it out"
            ),
        )
    calibrated = bool(task.calibration)
    if methods[method] == calibrated:
        return method
    recipe = f"{task.precision} by {method}" if is_choice else task.precision
    others = [other for other, needs_text in methods.items() if needs_text == calibrated]
    instead = f", or choose spec.quantization.method {' or '.join(others)}" if others else ""
    if calibrated:
        raise RefusedError(
            "CalibrationNotUsed",
            f"{recipe} uses no calibration text: remove spec.quantization.calibration{instead}",
        )
    raise RefusedError(
        "CalibrationRequired",
        f"{recipe} needs a calibration text: set spec.quantization.calibration{instead}",
    )


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
        "vocabularyDigest": checkpoint.vocabulary_digest(task.source),
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
        toolchain.layer_numbers(task)
        if isinstance(toolchain, Reading)
        else checkpoint.layer_numbers(task.source),
        task.overrides,
    )
    checkpoint.check_vocabulary(task.source, vocabulary)
    return coverage


def predict(toolchain: Scoring, task: Task, progress: Progress) -> dict[str, object]:
    """Have the artifact predict next tokens, beside its source where there is anything to compare
    them by.

    Raises:
        RefusedError: what it gives are no finite numbers, or the text is too short.
    """
    measured: dict[str, object] = {
        "protocol": perplexity.PROTOCOL,
        "baselinePerplexity": None,
        "perplexity": None,
        "tokens": 0,
    }
    if task.evaluation:
        return measured | compare(toolchain, task, task.evaluation, progress)
    try_out(toolchain.scorer(task, len(TRIAL_WINDOW)))
    return measured


def try_out(artifact: perplexity.Scorer) -> None:
    """Have the artifact read some tokens, where no text is given.

    Raises:
        RefusedError: what it gives are no finite numbers.
    """
    trial = Comparison()
    # Compared with itself, it is run once: only whether it gives numbers is asked.
    trial.add(TRIAL_WINDOW, *itertools.tee(artifact(TRIAL_WINDOW)))
    perplexity.perplexity(trial.artifact, "artifact")


def compare(
    toolchain: Scoring, task: Task, evaluation: Evaluation, progress: Progress
) -> dict[str, object]:
    """Score source and artifact on the evaluation text, have both answer the prompts and solve the
    tasks, as far as these are given; the measurements by their names.

    Raises:
        RefusedError: the text is too short, prompts or tasks cannot be used, or a perplexity is not
            finite.
    """
    asked, given = evaluation.prompts, evaluation.tasks
    windows = text_windows(task.source, evaluation) if evaluation.file else []
    prompts = asked.read(task.source) if asked else []
    longest = max(map(len, prompts), default=0) + (asked.answer_tokens if asked else 0)
    tasks = []
    if given:
        harness.check_installed()
        tasks = given.read()
    if tasks:
        longest = max(longest, harness.context_length(task.source))
    artifact = toolchain.scorer(task, max(longest, *map(len, windows[:1]), len(TRIAL_WINDOW)))
    progress("loading the source", 10)
    source = perplexity.transformers_scorer(task.source, "source")
    measured: dict[str, object] = {}
    if windows:
        comparison = Comparison()
        for window in progress.through(windows, "comparing the artifact with its source", 15, 50):
            comparison.add(window, source(window), artifact(window))
        measured = comparison.report()
    else:
        try_out(artifact)
    if asked:
        each = progress.through(prompts, "answering the prompts", 50, 70)
        ends = answers.ends(task.source)
        measured |= answers.compare(each, asked.answer_tokens, ends, source, artifact)
    if given:
        sides = progress.through((source, artifact), "solving the tasks", 70, 99)
        measured |= harness.compare(
            *(harness.measure(tasks, given.most, score, task.source) for score in sides)
        )
    return measured


def text_windows(source: Path, evaluation: Evaluation) -> list[Sequence[int]]:
    """The windows of the evaluation text.

    Raises:
        RefusedError: it does not fill one, or the model cannot read as much.
    """
    assert evaluation.file is not None
    length = evaluation.sequence_length
    checkpoint.check_length(source, "spec.quality.evaluation.sequenceLength", length)
    tokens = checkpoint.token_ids(source, perplexity.read_text(evaluation.file))
    return perplexity.windows(tokens[: evaluation.max_tokens], length)


class ToolError(Exception):
    """A command line tool ended with an error; the message holds its last lines. `status` is
    negative where a signal ended it."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


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
        said = f"{Path(command[0]).name} {how}: " + " | ".join(lines[-12:])
        raise ToolError(said, process.returncode)
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
