"""The operator's own Prometheus metrics."""

from decimal import Decimal

from prometheus_client import Counter, Gauge, Histogram

from quantop.api.quantizedmodel import QuantizedModelStatus
from quantop.reasons import ConditionType

RECONCILES = Counter("quantop_reconcile", "Passes over an object, by result.", ["result"])
DURATION = Histogram(
    "quantop_reconcile_duration_seconds",
    "Seconds that a pass over an object took.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
QUEUE_DEPTH = Gauge("quantop_queue_depth", "Objects that wait for a pass now.")
LEADER = Gauge("quantop_leader", "1 where this replica works, 0 where it stands by.")
CONDITION = Gauge(
    "quantop_model_condition",
    "1 while the condition is True, 0 while it is not.",
    ["namespace", "model", "type"],
)
SIZE = Gauge(
    "quantop_model_size_bytes",
    "Bytes of the source's files and of the artifact's.",
    ["namespace", "model", "of"],
)
SAVED = Gauge(
    "quantop_model_saved_bytes",
    "Bytes by which the artifact is smaller than its source.",
    ["namespace", "model"],
)
BITS = Gauge(
    "quantop_model_bits_per_weight",
    "Stored bits per weight of the artifact published last.",
    ["namespace", "model"],
)
INCREASE = Gauge(
    "quantop_model_perplexity_increase_percent",
    "By how much the perplexity of the artifact published last exceeds its source's.",
    ["namespace", "model"],
)
AGREEMENT = Gauge(
    "quantop_model_top_token_agreement_percent",
    "At how many positions the artifact published last and its source think the same token most "
    "likely.",
    ["namespace", "model"],
)
DIVERGENCE = Gauge(
    "quantop_model_mean_kl_divergence_nats",
    "Mean Kullback-Leibler divergence of the artifact published last from its source.",
    ["namespace", "model"],
)
ANSWERS = Gauge(
    "quantop_model_answer_agreement_percent",
    "To how many prompts the artifact published last and its source give the same answer.",
    ["namespace", "model"],
)
COSINE = Gauge(
    "quantop_model_mean_cosine_similarity",
    "Mean cosine similarity of the embeddings by the artifact published last and by its source.",
    ["namespace", "model"],
)
LABELS = Gauge(
    "quantop_model_label_agreement_percent",
    "For how many texts the artifact published last and its source think the same label most "
    "likely.",
    ["namespace", "model"],
)
TASK_DROP = Gauge(
    "quantop_model_task_accuracy_drop_points",
    "By how many percentage points the accuracy of the artifact published last is below its "
    "source's in a task; negative where it is above.",
    ["namespace", "model", "task"],
)
FIRST_TOKEN = Gauge(
    "quantop_model_trial_time_to_first_token_seconds",
    "Median seconds to the first token in the trial of the artifact published last, on the node "
    "that did it.",
    ["namespace", "model", "node"],
)
TOKENS = Gauge(
    "quantop_model_trial_tokens_per_second",
    "Median tokens a second after the first in that trial.",
    ["namespace", "model", "node"],
)
MEMORY = Gauge(
    "quantop_model_trial_peak_memory_bytes",
    "Most memory that the engine's processes had in use in that trial.",
    ["namespace", "model", "node"],
)
JOB_SECONDS = Histogram(
    "quantop_job_duration_seconds",
    "Seconds from a Job's start to its end, by what it does and how it ended.",
    ["job", "result"],
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 3 * 3600, 12 * 3600),
)


def reconciled(result: str, seconds: float) -> None:
    """Count a pass."""
    RECONCILES.labels(result).inc()
    DURATION.observe(seconds)


def observe(namespace: str, model: str, status: QuantizedModelStatus) -> None:
    """Show an object's state."""
    for condition in status.conditions:
        CONDITION.labels(namespace, model, condition.type).set(condition.status == "True")
    if status.artifact:
        SIZE.labels(namespace, model, "source").set(status.artifact.source_size_bytes)
        SIZE.labels(namespace, model, "artifact").set(status.artifact.size_bytes)
        SAVED.labels(namespace, model).set(
            status.artifact.source_size_bytes - status.artifact.size_bytes
        )
    bits = status.artifact.bits_per_weight if status.artifact else None
    measured = status.quality
    for gauge, figure in (
        (BITS, bits),
        (INCREASE, measured.increase_percent if measured else None),
        (AGREEMENT, measured.top_token_agreement_percent if measured else None),
        (DIVERGENCE, measured.mean_kl_divergence if measured else None),
        (ANSWERS, measured.answer_agreement_percent if measured else None),
        (COSINE, measured.mean_cosine_similarity if measured else None),
        (LABELS, measured.label_agreement_percent if measured else None),
    ):
        if figure is None:
            _remove(gauge, namespace, model)
        else:
            gauge.labels(namespace, model).set(float(figure))
    # Another evaluation may have other tasks.
    TASK_DROP.remove_by_labels({"namespace": namespace, "model": model})
    for task in measured.tasks if measured else ():
        drop = Decimal(task.baseline_percent) - Decimal(task.accuracy_percent)
        TASK_DROP.labels(namespace, model, task.name).set(float(drop))
    shown = status.performance
    wait = shown.time_to_first_token_milliseconds if shown else None
    for gauge, number in (
        (FIRST_TOKEN, float(wait) / 1000 if wait else None),
        (TOKENS, shown.tokens_per_second if shown else None),
        (MEMORY, shown.peak_memory_bytes if shown else None),
    ):
        # Another trial may have been on another node.
        gauge.remove_by_labels({"namespace": namespace, "model": model})
        if shown and number is not None:
            gauge.labels(namespace, model, shown.node).set(float(number))


def forget(key: tuple[str, str]) -> None:
    """Show an object no more."""
    for type_ in ConditionType:
        _remove(CONDITION, *key, type_.value)
    for of in ("source", "artifact"):
        _remove(SIZE, *key, of)
    for gauge in (SAVED, BITS, INCREASE, AGREEMENT, DIVERGENCE, ANSWERS, COSINE, LABELS):
        _remove(gauge, *key)
    for gauge in (TASK_DROP, FIRST_TOKEN, TOKENS, MEMORY):
        gauge.remove_by_labels({"namespace": key[0], "model": key[1]})


def _remove(gauge: Gauge, *labels: str) -> None:
    # prometheus_client ignores labels that were never set.
    gauge.remove(*labels)
