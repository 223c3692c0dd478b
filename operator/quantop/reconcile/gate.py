"""Whether a published artifact is good enough to be rolled out.

Pure, and decided anew on each pass from the figures in status: other limits need no other Job.
"""

from decimal import Decimal

from quantop.api.quantizedmodel import Quality, QualityStatus
from quantop.reasons import Reason
from quantop.reconcile.snapshot import Problem


def check(limits: Quality | None, measured: QualityStatus | None) -> Problem | None:
    """What is wrong with an artifact's quality; None when it keeps all limits, or has none.

    What was not measured has not passed. Percentages are compared exactly, as decimal numbers.
    """
    if limits is None or limits.max_perplexity_increase_percent is None:
        return None
    limit = f"spec.quality.maxPerplexityIncreasePercent is {limits.max_perplexity_increase_percent}"
    if measured is None or measured.increase_percent is None:
        return Problem(
            Reason.QUALITY_NOT_MEASURED,
            f"{limit}, but there is no perplexity of both source and artifact to hold against it: "
            "look at the quality report in the store, or remove the limit.",
        )
    if Decimal(measured.increase_percent) <= Decimal(limits.max_perplexity_increase_percent):
        return None
    return Problem(
        Reason.QUALITY_BELOW_LIMIT,
        f"{limit}, but perplexity rose by {measured.increase_percent} % "
        f"({measured.baseline_perplexity} -> {measured.perplexity}, {measured.tokens} tokens): "
        "choose a precision that keeps more, or calibrate, in spec.quantization, or raise the "
        "limit.",
    )
