"""What the nodes of the cluster can hold of a candidate: which precision to try depends on it.

Pure. Nodes that do not exist yet, because an autoscaler would make them, do not count; while no
node is known, everything fits.
"""

from decimal import Decimal

from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.quantizedmodel import Serving
from quantop.builders import serving
from quantop.quantities import human, parse, to_bytes
from quantop.reasons import Reason
from quantop.reconcile.choices import ChosenRuntime
from quantop.reconcile.snapshot import Node, Problem, Snapshot


def shortage(snapshot: Snapshot, runtime: ChosenRuntime) -> Problem | None:
    """Why no node can take an engine's pod, or None. Compared as the scheduler does: by what the
    engine asks for, and not with what other pods have of it at the moment."""
    wanted = snapshot.spec.serving
    if wanted is None or not snapshot.nodes:
        return None
    selector = runtime.spec.node_selector
    suitable = _suitable(snapshot, runtime.spec)
    if not suitable:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
        return Problem(
            Reason.INSUFFICIENT_CAPACITY,
            f"ModelRuntime {runtime.name!r} runs on nodes labelled {labels} only, and there is "
            "none: add one, or label it so.",
        )
    requests = _requests(wanted, runtime.spec)
    if any(_holds(node, requests) for node in suitable):
        return None
    asked = ", ".join(f"{name} {amount}" for name, amount in sorted(requests.items()))
    return Problem(
        Reason.INSUFFICIENT_CAPACITY,
        f"the engine of ModelRuntime {runtime.name!r} asks for {asked}, and none of the "
        f"{len(suitable)} nodes that it may run on has that: add a larger one, or lower "
        "spec.serving.resources.requests.",
    )


def oversize(snapshot: Snapshot, runtime: ChosenRuntime, size_bytes: int) -> Problem | None:
    """Why an engine that has all of the artifact in memory cannot hold it, or None. What an engine
    with an accelerator has in which memory is not known."""
    wanted = snapshot.spec.serving
    if wanted is None:
        return None
    resources = serving.engine_resources(wanted, runtime.spec)
    if any("/" in name for name in _requests(wanted, runtime.spec)):
        return None
    what = "the engine's limit"
    limit = resources.get("limits", {}).get("memory")
    most = None if limit is None else to_bytes(limit)
    on_nodes = [node.allocatable.get("memory", 0) for node in _suitable(snapshot, runtime.spec)]
    if on_nodes and (most is None or max(on_nodes) < most):
        what, most = "the largest node's memory", int(max(on_nodes))
    if most is None or size_bytes <= most:
        return None
    return Problem(
        Reason.INSUFFICIENT_CAPACITY,
        f"the artifact has {human(size_bytes)}, but {what} is {human(most)}: raise "
        "spec.serving.resources.limits.memory, or add a larger node.",
    )


def _suitable(snapshot: Snapshot, runtime: ModelRuntimeSpec) -> list[Node]:
    """The nodes that the engine may run on."""
    selector = runtime.node_selector.items()
    return [node for node in snapshot.nodes if selector <= dict(node.labels).items()]


def _requests(wanted: Serving, runtime: ModelRuntimeSpec) -> dict[str, str]:
    """What the scheduler reserves for the engine: a limit without a request counts as one."""
    resources = serving.engine_resources(wanted, runtime)
    return {**resources.get("limits", {}), **resources.get("requests", {})}


def _holds(node: Node, requests: dict[str, str]) -> bool:
    return all(
        parse(amount) <= node.allocatable.get(name, Decimal(0)) for name, amount in requests.items()
    )
