"""Olive's search: of several passes for one place it makes and measures what each choice leads to,
and takes the fastest that keeps a goal.

A pass of a search says every setting that Olive has `search_defaults` for: of one that is left out
it would try each of them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop_adapters import benchmark, stage, workflow
from quantop_adapters.benchmark import Candidate, State
from quantop_adapters.refusal import RefusedError
from quantop_adapters.workflow import Feed, Pass, Passes

METHOD = "Search"
METRICS = Path(__file__).with_name("olive_metrics.py")
"""By which Olive measures what the passes cost."""
RUNNER = ("-m", "quantop_adapters.olive_run")
"""By which it is run: its own command does not tell what it chose."""
WARM_UP, RUNS = 3, 15
"""Requests before those that are timed, and those."""
# How Olive says that it goes on to the next candidate.
STEP = re.compile(r"Step (\d+) with search point")
FOUND, REFUSED = "found.json", "refused.json"
"""What the runner writes about Olive's models, and the measurement of those that it refuses."""
FAILED = "a pass failed, or what it made cannot be run: see the log of the quantize stage"
INPUT = "input"
"""The folder of the model that is given, where it is a graph."""
EVALUATOR = "quantop"
SIZE = "sizeBytes"
TIME, SCORE, BYTES = "p50", "accuracy_score", "bytes"
"""What of a metric is measured, by Olive's names: a time's median, in milliseconds; an accuracy,
whose name is from a list of Olive's and says nothing here; a size."""
DELIMITER = "-"
"""Between the two, as Olive names a figure."""


@dataclass(frozen=True)
class Measures:
    """What is measured of each candidate."""

    figure: str
    """What the passes cost, with its unit."""
    best: float
    """The source's own."""
    loss: float
    """By how much a candidate's may be worse."""
    higher_is_better: bool
    latencies: Mapping[str, Feed]
    """Figures of milliseconds, and what is asked for each. Of the first the least is looked for."""
    baseline: bool
    """Whether the model before all passes is a graph, and is measured, too."""

    @property
    def goal(self) -> float:
        """The least of it, or the most where lower is better."""
        return self.best - self.loss if self.higher_is_better else self.best + self.loss

    def configuration(self, threads: int) -> dict[str, Any]:
        """Olive's evaluator and strategy. A metric's data is named as the metric."""
        cost = {
            "name": SCORE,
            "priority": 2,
            "higher_is_better": self.higher_is_better,
            # Olive 0.13 passes over a threshold where no goal is relative to the source.
            "goal": {"type": "max-degradation", "value": self.loss},
        }
        runs = {"warmup_num": WARM_UP, "repeat_test_num": RUNS, "sleep_num": 0}
        options = {"session_options": {"intra_op_num_threads": threads}}
        metrics: list[dict[str, Any]] = [
            {
                "name": name,
                "type": "latency",
                "sub_types": [
                    {"name": TIME, "priority": -1 if index else 1, "metric_config": runs}
                ],
                "data_config": name,
                "user_config": {"inference_settings": {"onnx": options}},
            }
            for index, name in enumerate(self.latencies)
        ]
        metrics += [
            {"name": self.figure, "type": "accuracy", "sub_types": [cost]},
            {"name": SIZE, "type": "size_on_disk", "sub_types": [{"name": BYTES}]},
        ]
        evaluator = {"type": EVALUATOR, "user_script": str(METRICS), "metrics": metrics}
        return {
            "evaluators": {"own": evaluator},
            "evaluator": "own",
            "evaluate_input_model": self.baseline,
            "search_strategy": {"execution_order": "joint", "sampler": "sequential"},
        }

    def figures(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What Olive measured, by our names."""
        kinds = {**dict.fromkeys(self.latencies, TIME), self.figure: SCORE, SIZE: BYTES}
        keys = {name: f"{name}{DELIMITER}{kind}" for name, kind in kinds.items()}
        return {name: metrics[key] for name, key in keys.items() if key in metrics}


def run(
    task: stage.Task,
    model: Mapping[str, Any],
    passes: Passes,
    feeds: Sequence[Feed],
    measures: Measures,
    progress: stage.Progress,
) -> Path:
    """Search on a model as Olive describes it, and leave what was measured; the folder that holds
    the `model.onnx` chosen. `feeds` are the calibration's texts, as the graph's inputs take them.

    Raises:
        RefusedError: no candidate keeps the goal.
        stage.ToolError: none could be made.
    """
    told = workflow.configuration(task, model, passes)
    told |= measures.configuration(task.threads)
    asked = {workflow.DATA: feeds, **{name: [feed] for name, feed in measures.latencies.items()}}
    told["data_configs"] = [workflow.data(task.scratch, *each) for each in asked.items()]
    places = workflow.places(passes)
    total = math.prod(map(len, places))

    def step(line: str) -> None:
        if found := STEP.search(line):
            done = min(int(found[1]) - 1, total)
            progress(f"candidate {done + 1} of {total}", 30 + 65 * done // total)

    lines = workflow.execute(task, RUNNER, told, step)
    found = list(candidates(task, places, measures))
    benchmark.write(task, found)
    if not any(each.state is State.CHOSEN for each in found):
        raise none_chosen(found, measures) or workflow.failure(lines)
    return workflow.output(task, lines)


def candidates(
    task: stage.Task, places: Sequence[Sequence[Pass]], measures: Measures
) -> Iterator[Candidate]:
    """What Olive made and measured, in its order; what could not be made or measured, too."""
    said = json.loads((task.scratch / FOUND).read_text())
    models, refused = said["models"], task.scratch / REFUSED
    reasons = json.loads(refused.read_text()) if refused.is_file() else {}
    for name, model in models.items():
        figures = measures.figures(model["metrics"])
        if model["parent"] is None:
            if measures.baseline:
                yield Candidate("Source in 32 bits", State.BASELINE, figures)
            continue
        way = list(taken(models, name, places))
        whole = len(way) == len(places)
        if not whole and model["folder"]:
            continue
        asked = {"passes": {f"pass{index}": each for index, each in enumerate(way)}}
        state = State.FAILED
        if name == said["chosen"]:
            state = State.CHOSEN
        elif figures:
            state = State.PASSED if model["met"] else State.REJECTED
        yield Candidate(
            label(way, places),
            state,
            figures,
            reasons.get(model["folder"], FAILED) if state is State.FAILED else "",
            json.dumps(asked) if whole else "",
        )


def taken(models: Mapping[str, Any], name: str, places: Sequence[Sequence[Pass]]) -> Iterator[Pass]:
    """The passes that led to a model: of each place the one whose settings Olive ran it with."""
    steps: list[Any] = []
    while (model := models[name])["parent"] is not None:
        steps.insert(0, model)
        name = model["parent"]
    for step, place in zip(steps, places, strict=False):
        # Olive writes types in small letters, and every setting.
        ran = {**step["settings"], "type": step["type"]}
        fitting = [each for each in place if {**ran, **each, "type": each["type"].lower()} == ran]
        yield max(fitting, key=len)


def label(way: Sequence[Pass], places: Sequence[Sequence[Pass]]) -> str:
    """A name that tells a candidate from the others: where there is a choice, the pass's type, and
    the settings by which it differs from others of its type."""
    words = []
    for each, place in zip(way, places, strict=False):
        alike = [other for other in place if other["type"] == each["type"]]
        if len(place) > 1:
            differ = [key for key in each if any(other.get(key) != each[key] for other in alike)]
            words.append(
                " ".join([each["type"], *(f"{key}={json.dumps(each[key])}" for key in differ)])
            )
    return ", ".join(words)


def none_chosen(found: Sequence[Candidate], measures: Measures) -> RefusedError | None:
    """The refusal of a search whose candidates all miss the goal; None where none could be made."""
    made = [each for each in found if each.state is State.REJECTED]
    if not made:
        return None
    sign = 1 if measures.higher_is_better else -1
    best = max(made, key=lambda each: sign * each.figures[measures.figure])
    return RefusedError(
        "SearchFailed",
        f"none of the {len(made)} candidates of spec.quantization.method {METHOD} has a "
        f"{measures.figure} of {measures.goal:g} or {'more' if sign > 0 else 'less'} on the "
        f"calibration text; the best is {best.name} with {best.figures[measures.figure]:g}. Name "
        "another method, or another precision",
    )
