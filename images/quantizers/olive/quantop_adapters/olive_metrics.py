"""What the passes of a search cost. Olive itself loads this file, where it measures candidates.

A candidate that the evaluate stage would refuse is refused here: none such is chosen. What they are
compared with is worked out once, and kept beside them.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from quantop_adapters import (
    calibration,
    checkpoint,
    encoder,
    onnx_graph,
    onnxruntime,
    onnxruntime_genai,
    perplexity,
    search,
    stage,
    texts,
    workflow,
)
from quantop_adapters.comparison import log_softmax
from quantop_adapters.refusal import RefusedError

metrics: Any = importlib.import_module("olive.evaluator.metric_result")
evaluators: Any = importlib.import_module("olive.evaluator.olive_evaluator")


@evaluators.Registry.register(search.EVALUATOR)  # type: ignore[misc]
class Evaluator(evaluators.OnnxEvaluator):  # type: ignore[misc]
    """Olive's own for graphs, with what the passes cost as the accuracy, and the size of all of a
    model's files. A source that is no graph is asked for what goals are relative to, and costs
    nothing."""

    def evaluate(self, model: Any, asked: Any, *args: Any, **options: Any) -> Any:
        """What is asked of a graph; of another model no time and no size."""
        if not is_graph(model):
            asked = [metric for metric in asked if metric.type == "accuracy"]
        return super().evaluate(model, asked, *args, **options)

    def _evaluate_accuracy(self, model: Any, metric: Any, *_: Any) -> Any:
        if not is_graph(model):
            return result(metric, 0.0)
        return result(metric, cost(Path(model.model_path).parent))

    def _evaluate_size_on_disk(self, model: Any, metric: Any, *_: Any) -> Any:
        files = Path(model.model_path).parent.iterdir()
        return result(metric, sum(each.stat().st_size for each in files if each.is_file()))


def is_graph(model: Any) -> bool:
    """Whether a model of Olive's is one."""
    return bool(model.framework == importlib.import_module("olive.constants").Framework.ONNX)


def result(metric: Any, value: float) -> Any:
    """The figure of a metric that has one."""
    (kind,) = metric.sub_types
    ranked = {"priority": kind.priority, "higher_is_better": kind.higher_is_better}
    return metrics.MetricResult.model_validate({kind.name: {"value": value, **ranked}})


def cost(folder: Path) -> float:
    """What the passes cost the model in a folder.

    Raises:
        RefusedError: the evaluate stage would refuse it; the reason is kept.
    """
    asked = stage.Task.from_environment(os.environ)
    task = dataclasses.replace(asked, artifact=folder)
    encodes = task.format == onnxruntime.Onnxruntime.format
    toolchain = onnxruntime.Onnxruntime() if encodes else onnxruntime_genai.OnnxruntimeGenai()
    try:
        if folder != asked.scratch / search.INPUT:
            toolchain.coverage(folder).check(
                task.precision,
                task.bits_per_weight_min,
                task.bits_per_weight_max,
                checkpoint.layer_numbers(task.source),
            )
        return (of_texts if encodes else of_tokens)(task, asked.scratch)
    except RefusedError as refusal:
        file = asked.scratch / search.REFUSED
        reasons = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**reasons, str(folder): str(refusal)}))
        raise


def of_texts(task: stage.Task, scratch: Path) -> float:
    """How alike an encoder's embeddings are to the source's, or for how many texts a classifier
    finds the same label, in percent."""
    numpy: Any = importlib.import_module("numpy")
    onnx_graph.check_finite(task.artifact)
    run = onnx_graph.session(task.artifact, task.threads)
    names = [entry.name for entry in run.get_inputs()]
    lines = (scratch / f"{workflow.DATA}.jsonl").read_text().splitlines()
    feeds = [json.loads(line) for line in lines]
    found = [
        run.run(None, {name: numpy.array([feed[name]], dtype=numpy.int64) for name in names})[0][0]
        for feed in feeds
    ]
    kept = scratch / "expected.npy"
    if not kept.is_file():
        # The source's graph is measured first.
        numpy.save(kept, numpy.stack(found))
    classifies = encoder.is_classifier(task.source)
    measure: texts.Measure = texts.Agreement([]) if classifies else texts.Similarity()
    for expected, answer in zip(numpy.load(kept), found, strict=True):
        if not numpy.isfinite(answer).all():
            raise RefusedError("NumbersNotFinite", "it computes numbers that are not finite")
        measure.add(texts.Text(""), expected, answer)
    figure = "labelAgreementPercent" if classifies else "meanCosineSimilarity"
    return float(str(measure.report()[figure]))


def of_tokens(task: stage.Task, scratch: Path) -> float:
    """By how much the perplexity of the calibration's sequences is above the source's, in
    percent."""
    rows = calibration.token_rows(task)
    kept = scratch / "expected.json"
    if not kept.is_file():
        source = perplexity.transformers_scorer(task.source, "source")
        kept.write_text(json.dumps(perplexity.perplexity(list(costs(source, rows)), "source")))
    artifact = onnxruntime_genai.OnnxruntimeGenai().scorer(task, len(rows[0]))
    found = perplexity.perplexity(list(costs(artifact, rows)), "artifact")
    increase = 100 * (found / float(json.loads(kept.read_text())) - 1)
    return round(increase, 4)


def costs(score: perplexity.Scorer, rows: Iterable[Sequence[int]]) -> Iterable[float]:
    """Negative log likelihoods of the tokens of each row but the first, in nats."""
    numpy: Any = importlib.import_module("numpy")
    for row in rows:
        place = 1
        for logits in score(row):
            targets = row[place : place + len(logits)]
            place += len(logits)
            likely = log_softmax(logits[: len(targets)])
            yield from (-likely[numpy.arange(len(targets)), targets]).tolist()
