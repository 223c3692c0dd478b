"""Whether a published artifact is good enough to be rolled out.

Pure, and decided anew on each pass from the figures in status: other limits need no other Job.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from quantop.api.quantizedmodel import Performance, Quality, QualityStatus
from quantop.quantities import human, parse
from quantop.reasons import Reason
from quantop.reconcile.snapshot import Problem

Measured = TypeVar("Measured", QualityStatus, Performance)


@dataclass(frozen=True)
class Limit(Generic[Measured]):
    """A limit of ``spec.quality`` and the figure that is held against it."""

    field: str
    limit: Callable[[Quality], str | None]
    figure: Callable[[Measured], str | None]
    is_maximum: bool
    found: str
    """What a message says of ``figure``, with any other field of the status."""
    shown: Callable[[str], str] = str
    """A figure for people."""

    def keeps(self, limit: str, figure: str) -> bool:
        """Whether the figure is within the limit; compared exactly, as decimal numbers
        or quantities."""
        low, high = (figure, limit) if self.is_maximum else (limit, figure)
        return parse(low) <= parse(high)


LIMITS: tuple[Limit[QualityStatus], ...] = (
    Limit(
        "maxPerplexityIncreasePercent",
        lambda quality: quality.max_perplexity_increase_percent,
        lambda measured: measured.increase_percent,
        is_maximum=True,
        found="perplexity rose by {figure} % ({0.baseline_perplexity} -> {0.perplexity}, "
        "{0.tokens} tokens)",
    ),
    Limit(
        "minTopTokenAgreementPercent",
        lambda quality: quality.min_top_token_agreement_percent,
        lambda measured: measured.top_token_agreement_percent,
        is_maximum=False,
        found="the same token is most likely at {figure} % of {0.tokens} positions",
    ),
    Limit(
        "maxMeanKLDivergence",
        lambda quality: quality.max_mean_kl_divergence,
        lambda measured: measured.mean_kl_divergence,
        is_maximum=True,
        found="the mean divergence is {figure} nats",
    ),
    Limit(
        "maxP99KLDivergence",
        lambda quality: quality.max_p99_kl_divergence,
        lambda measured: measured.p99_kl_divergence,
        is_maximum=True,
        found="the divergence's 99th percentile is {figure} nats",
    ),
    Limit(
        "minMeanCosineSimilarity",
        lambda quality: quality.min_mean_cosine_similarity,
        lambda measured: measured.mean_cosine_similarity,
        is_maximum=False,
        found="the mean cosine similarity of {0.texts} texts is {figure}",
    ),
    Limit(
        "minP1CosineSimilarity",
        lambda quality: quality.min_p1_cosine_similarity,
        lambda measured: measured.p1_cosine_similarity,
        is_maximum=False,
        found="the cosine similarity's 1st percentile is {figure}",
    ),
    Limit(
        "minLabelAgreementPercent",
        lambda quality: quality.min_label_agreement_percent,
        lambda measured: measured.label_agreement_percent,
        is_maximum=False,
        found="the same label is most likely for {figure} % of {0.texts} texts",
    ),
    Limit(
        "minAccuracyPercent",
        lambda quality: quality.min_accuracy_percent,
        lambda measured: measured.accuracy_percent,
        is_maximum=False,
        found="the label is found for {figure} % of {0.texts} texts (by the source: "
        "{0.baseline_accuracy_percent} %)",
    ),
    Limit(
        "minAnswerAgreementPercent",
        lambda quality: quality.min_answer_agreement_percent,
        lambda measured: measured.answer_agreement_percent,
        is_maximum=False,
        found="the answer is the same to {figure} % of {0.prompts} prompts "
        "({0.mean_answer_prefix_percent} % of it on average)",
    ),
    Limit(
        "maxTaskAccuracyDropPoints",
        lambda quality: quality.max_task_accuracy_drop_points,
        lambda measured: measured.task_accuracy_drop_points,
        is_maximum=True,
        found="{figure} points of accuracy are lost in task {0.tasks[0].name} "
        "({0.tasks[0].baseline_percent} % -> {0.tasks[0].accuracy_percent} % of "
        "{0.tasks[0].samples} documents)",
    ),
)


MEMORY = Limit[Performance](
    "maxMemory",
    lambda quality: quality.max_memory,
    lambda measured: _text(measured.peak_memory_bytes),
    is_maximum=True,
    found="the engine took {figure} at its peak on node {0.node}",
    shown=lambda figure: human(int(figure)),
)
PERFORMANCE_LIMITS: tuple[Limit[Performance], ...] = (
    Limit(
        "maxTimeToFirstTokenMilliseconds",
        lambda quality: quality.max_time_to_first_token_milliseconds,
        lambda measured: measured.time_to_first_token_milliseconds,
        is_maximum=True,
        found="the first token came after {figure} ms on node {0.node}",
    ),
    Limit(
        "minTokensPerSecond",
        lambda quality: quality.min_tokens_per_second,
        lambda measured: measured.tokens_per_second,
        is_maximum=False,
        found="{figure} tokens a second came on node {0.node}",
    ),
    MEMORY,
)


def check(limits: Quality | None, measured: QualityStatus | None) -> Problem | None:
    """What is wrong with an artifact's quality; None when it keeps all limits, or has none.

    What was not measured has not passed.
    """
    missing, exceeded = _held(LIMITS, limits, measured)
    if missing:
        return Problem(
            Reason.QUALITY_NOT_MEASURED,
            f"{'; '.join(missing)}, but the Quantizer measured nothing to hold against it: look at "
            "the quality report in the store, or remove the limit.",
        )
    if exceeded:
        return Problem(
            Reason.QUALITY_BELOW_LIMIT,
            f"{'; '.join(exceeded)}: choose a precision that keeps more, or calibrate, in "
            "spec.quantization, or loosen the limit.",
        )
    return None


def check_performance(
    limits: Quality | None,
    measured: Performance | None,
    table: Sequence[Limit[Performance]] = PERFORMANCE_LIMITS,
) -> Problem | None:
    """The same of how an artifact did in its trial, by all limits on that or some."""
    missing, exceeded = _held(table, limits, measured)
    if missing:
        return Problem(
            Reason.PERFORMANCE_NOT_MEASURED,
            f"{'; '.join(missing)}, but the trial measured nothing to hold against it: an engine "
            "that reads a text whole has no tokens per second; remove the limit.",
        )
    if exceeded:
        return Problem(
            Reason.PERFORMANCE_BELOW_LIMIT,
            f"{'; '.join(exceeded)}: choose another precision in spec.quantization, give the "
            "engine more in spec.serving.resources, or loosen the limit.",
        )
    return None


def limits_performance(limits: Quality | None) -> bool:
    """Whether there is a limit that only a trial can be held against."""
    return limits is not None and any(each.limit(limits) for each in PERFORMANCE_LIMITS)


def _held(
    table: Sequence[Limit[Measured]], limits: Quality | None, measured: Measured | None
) -> tuple[list[str], list[str]]:
    """The limits without a figure, and those that their figure is not within, in words."""
    missing, exceeded = [], []
    for each in table:
        limit = each.limit(limits) if limits else None
        if limit is None:
            continue
        said = f"spec.quality.{each.field} is {limit}"
        figure = each.figure(measured) if measured else None
        if measured is None or figure is None:
            missing.append(said)
        elif not each.keeps(limit, figure):
            found = each.found.format(measured, figure=each.shown(figure))
            exceeded.append(f"{said}, but {found}")
    return missing, exceeded


def _text(figure: int | None) -> str | None:
    return None if figure is None else str(figure)
