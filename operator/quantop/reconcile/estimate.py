"""What a conversion needs, estimated from its source's size before the Job is made."""

from quantop.api.base import ResourceRequirements
from quantop.api.quantizer import QuantizerSpec
from quantop.builders import pod
from quantop.builders.jobs import Needs
from quantop.builders.meta import Manifest
from quantop.quantities import human, mebibytes, to_bytes
from quantop.reasons import Reason
from quantop.reconcile.snapshot import Capacity, Problem


def estimate(
    quantizer: QuantizerSpec, given: ResourceRequirements, source_size_bytes: int, compares: bool
) -> Needs:
    """base + factor x source size, as the Quantizer says; what the recipe gives goes before.

    ``compares`` says that there is an evaluation text.
    """
    needs = quantizer.resources
    disk = to_bytes(needs.disk_base) + source_size_bytes * needs.disk_percent_of_source // 100
    given_disk = given.requests.get("ephemeral-storage") or given.limits.get("ephemeral-storage")
    without_disk = ResourceRequirements(
        requests={k: v for k, v in given.requests.items() if k != "ephemeral-storage"},
        limits={k: v for k, v in given.limits.items() if k != "ephemeral-storage"},
    )

    def stage(percent: int) -> Manifest:
        memory = to_bytes(needs.memory_base) + source_size_bytes * percent // 100
        each = {"cpu": needs.cpu, "memory": mebibytes(memory)}
        return pod.resources(without_disk, {"requests": each, "limits": each})

    quantizes = needs.memory_percent_of_source
    evaluates = max(quantizes, needs.evaluation_memory_percent_of_source if compares else 0)
    return Needs(stage(quantizes), stage(evaluates), given_disk or mebibytes(disk))


def exceeds(wanted: Needs, source_size_bytes: int, capacity: Capacity | None) -> Problem | None:
    """The Problem that no node can hold the estimate, or None. Unknown capacity is no problem."""
    if capacity is None:
        return None
    memory = max(
        to_bytes(stage.get("requests", {}).get("memory", "0"))
        for stage in (wanted.quantize, wanted.evaluate)
    )
    disk = to_bytes(wanted.disk)
    over = [
        f"{what} {human(need)} (the largest node has {human(have)})"
        for what, need, have in (
            ("memory", memory, capacity.memory),
            ("ephemeral-storage", disk, capacity.disk),
        )
        if need > have
    ]
    if not over:
        return None
    return Problem(
        Reason.INSUFFICIENT_CAPACITY,
        f"converting a source of {human(source_size_bytes)} is estimated to need "
        f"{' and '.join(over)}: add a larger node, or set spec.quantization.resources.requests "
        "if you know better.",
    )
