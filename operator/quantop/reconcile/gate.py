"""Whether a published artifact is good enough to be rolled out.

Pure, and decided anew on each pass from the figures in status: other limits need no other Job.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from quantop.api.quantizedmodel import Quality, QualityStatus
from quantop.reasons import Reason
from quantop.reconcile.snapshot import Problem


@dataclass(frozen=True)
class Limit:
    """A limit of ``spec.quality`` and the figure that is held against it."""

    field: str
    limit: Callable[[Quality], str | None]
    figure: Callable[[QualityStatus], str | None]
    is_maximum: bool
    found: str
    """What a message says of ``figure``, with any other field of the status."""

    def keeps(self, limit: str, figure: str) -> bool:
        """Whether the figure is within the limit; compared exactly, as decimal numbers."""
        low, high = (figure, limit) if self.is_maximum else (limit, figure)
        return Decimal(low) <= Decimal(high)


LIMITS = (
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


def check(limits: Quality | None, measured: QualityStatus | None) -> Problem | None:
    """What is wrong with an artifact's quality; None when it keeps all limits, or has none.

    What was not measured has not passed.
    """
    missing, exceeded = [], []
    for each in LIMITS:
        limit = each.limit(limits) if limits else None
        if limit is None:
            continue
        said = f"spec.quality.{each.field} is {limit}"
        figure = each.figure(measured) if measured else None
        if measured is None or figure is None:
            missing.append(said)
        elif not each.keeps(limit, figure):
            exceeded.append(f"{said}, but {each.found.format(measured, figure=figure)}")
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
