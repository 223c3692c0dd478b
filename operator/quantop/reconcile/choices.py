"""What the cluster decides about a spec: its store, its quantizer, its runtime.

Each function is pure and gives either the choice or the Problem that names the fix.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from quantop import workflows
from quantop.api.modelruntime import ModelRuntimeSpec, ServedFormat
from quantop.api.modelstore import ModelStoreSpec, NamespacesFrom
from quantop.api.quantizedmodel import WORKFLOW, Recipe, Serving
from quantop.api.quantizer import (
    CalibrationNeed,
    EvaluationKind,
    FileSplitting,
    QuantizerMethod,
    QuantizerPrecision,
    QuantizerSpec,
)
from quantop.contract import AllowedPass
from quantop.reasons import NOT_READABLE, Reason
from quantop.reconcile import options
from quantop.reconcile.snapshot import Problem, Snapshot

EVALUATIONS = {
    "uri": EvaluationKind.TEXT,
    "prompts": EvaluationKind.PROMPTS,
    "tasks": EvaluationKind.TASKS,
}
"""What the fields of ``spec.quality.evaluation`` have an artifact measured by."""


@dataclass(frozen=True)
class ChosenQuantizer:
    """A Quantizer, and what of it the recipe uses."""

    name: str
    spec: QuantizerSpec
    precision: QuantizerPrecision
    method: QuantizerMethod
    workflow: str | None = None
    """The spec's own workflow, which is run in the method's place, as the toolchain is told it."""


@dataclass(frozen=True)
class ChosenRuntime:
    """A ModelRuntime."""

    name: str
    spec: ModelRuntimeSpec


def choose_store(snapshot: Snapshot) -> ModelStoreSpec | Problem:
    """The ModelStore that the spec names, if the namespace may use it."""
    name = snapshot.spec.storage.store_name
    store = snapshot.stores.get(name)
    if store is None:
        return unreadable(snapshot, "spec.storage.storeName", "ModelStore", name) or Problem(
            Reason.STORE_NOT_FOUND,
            f"spec.storage.storeName is {name!r}, but there is no such ModelStore; "
            f"{there_are('ModelStores', snapshot.stores)}. Name one of them, or create it.",
        )
    allowed = store.allowed_namespaces
    if allowed.from_ is NamespacesFrom.SELECTOR:
        wanted = allowed.match_labels or {}
        if not wanted.items() <= dict(snapshot.namespace_labels).items():
            labels = ", ".join(f"{key}={value}" for key, value in sorted(wanted.items()))
            return Problem(
                Reason.STORE_NOT_ALLOWED,
                f"ModelStore {name!r} is open to namespaces labelled {labels} only: label "
                f"namespace {snapshot.namespace!r} so, or name another store in "
                "spec.storage.storeName.",
            )
    return store


def choose_quantizer(snapshot: Snapshot) -> ChosenQuantizer | Problem:
    """The Quantizer that the spec names, or the one of highest priority that can do the recipe."""
    offering = _offering(snapshot)
    if isinstance(offering, Problem):
        return offering
    name, quantizer, precision = offering
    chosen = _with_method(snapshot, name, quantizer, precision)
    return _unable(snapshot, name, quantizer) or chosen


def offered_precisions(snapshot: Snapshot) -> dict[str, QuantizerPrecision] | Problem:
    """Every precision that `choose_quantizer` can find a Quantizer for, by name."""
    writers = _writers(snapshot)
    if isinstance(writers, Problem):
        return writers
    return {p.name: p for _, q in reversed(writers) for p in q.precisions}


def with_precision(snapshot: Snapshot, name: str, precision: QuantizerPrecision | None) -> Snapshot:
    """The snapshot as if its spec named this precision, which Auto or a Preset stood for.
    Calibration text is for those that make use of it: the others go without."""
    wanted = snapshot.spec.quantization
    # What a workflow makes of it, its passes decide.
    uses = has_workflow(wanted) or (
        precision
        and any(
            m.calibration is not CalibrationNeed.IGNORED
            for m in precision.methods
            if wanted.method in (None, m.name)
        )
    )
    named = wanted.model_copy(
        update={
            "precision": name,
            "auto": None,
            "calibration": wanted.calibration if uses else None,
        }
    )
    return replace(snapshot, spec=snapshot.spec.model_copy(update={"quantization": named}))


def _offering(snapshot: Snapshot) -> tuple[str, QuantizerSpec, QuantizerPrecision] | Problem:
    """The first Quantizer that offers the precision, and what it says of it."""
    writers = _writers(snapshot)
    if isinstance(writers, Problem):
        return writers
    for name, quantizer in writers:
        for precision in quantizer.precisions:
            if precision.name == snapshot.precision:
                return name, quantizer, precision
    possible = {p.name for _, q in writers for p in q.precisions}
    elsewhere = {
        f"{name} (for {q.hardware})"
        for name, q in snapshot.quantizers.items()
        if q.hardware and q.format == snapshot.format and (name, q) not in writers
        for p in q.precisions
        if p.name == snapshot.precision
    }
    named = f"; by spec.quantization.quantizerName: {_listed(elsewhere)}" if elsewhere else ""
    return Problem(
        Reason.PRECISION_NOT_SUPPORTED,
        f"spec.quantization.precision is {snapshot.precision!r}, which no Quantizer for "
        f"{snapshot.format} offers here; possible: {_listed(possible)}{named}."
        f"{_left_out(snapshot, 'Quantizer')}",
    )


def _writers(snapshot: Snapshot) -> list[tuple[str, QuantizerSpec]] | Problem:
    """The Quantizers that the spec leaves, the one to be asked first before the others."""
    wanted = snapshot.spec.quantization
    candidates = sorted(snapshot.quantizers.items(), key=lambda item: (-item[1].priority, item[0]))
    if wanted.quantizer_name is not None:
        candidates = [item for item in candidates if item[0] == wanted.quantizer_name]
        if not candidates:
            field, name = "spec.quantization.quantizerName", wanted.quantizer_name
            return unreadable(snapshot, field, "Quantizer", name) or Problem(
                Reason.QUANTIZER_NOT_FOUND,
                f"{field} is {name!r}, but there is no such Quantizer; "
                f"{there_are('Quantizers', snapshot.quantizers)}.",
            )
    writers = [(name, q) for name, q in candidates if q.format == snapshot.format]
    if not writers:
        formats = {q.format for _, q in candidates}
        who = "it writes" if wanted.quantizer_name else "the Quantizers of this cluster write"
        return Problem(
            Reason.QUANTIZER_NOT_FOUND,
            f"spec.quantization.format is {snapshot.format!r}, but {who} "
            f"{_listed(formats) or 'nothing: there is none'}."
            f"{'' if wanted.quantizer_name else _left_out(snapshot, 'Quantizer')}",
        )
    # Who names none wants what runs wherever the format does.
    general = [item for item in writers if not item[1].hardware]
    return general if general and wanted.quantizer_name is None else writers


def choose_runtime(snapshot: Snapshot) -> ChosenRuntime | Problem | None:
    """The ModelRuntime that the spec names, or the one of highest priority that serves the
    recipe's format and precision, if it has the engine options that are set; None where serving
    is not asked for."""
    serving = snapshot.spec.serving
    if serving is None:
        return None
    runtime = _able_runtime(snapshot, serving)
    if isinstance(runtime, Problem):
        return runtime
    return options.check(serving, runtime.name, runtime.spec, snapshot.capacity) or runtime


def _able_runtime(snapshot: Snapshot, serving: Serving) -> ChosenRuntime | Problem:
    offering = _offering(snapshot)
    hardware = "" if isinstance(offering, Problem) else offering[1].hardware
    made_for = f", which is for {hardware}" if hardware else ""
    able = {
        n: r
        for n, r in snapshot.runtimes.items()
        if serves(r.formats, snapshot.format, snapshot.precision, hardware)
    }
    if serving.runtime_name is not None:
        runtime = snapshot.runtimes.get(serving.runtime_name)
        if runtime is None:
            field, name = "spec.serving.runtimeName", serving.runtime_name
            return unreadable(snapshot, field, "ModelRuntime", name) or Problem(
                Reason.RUNTIME_NOT_FOUND,
                f"{field} is {name!r}, but there is no such ModelRuntime; "
                f"{there_are('ModelRuntimes', snapshot.runtimes)}.",
            )
        if serving.runtime_name not in able:
            return Problem(
                Reason.FORMAT_NOT_SERVED,
                f"ModelRuntime {serving.runtime_name!r} serves {_served(runtime)}, not "
                f"{snapshot.format} {snapshot.precision}{made_for}; able: "
                f"{_listed(able) or 'none'}. Change spec.serving.runtimeName or spec.quantization.",
            )
        return ChosenRuntime(serving.runtime_name, runtime)
    if not able:
        return Problem(
            Reason.RUNTIME_NOT_FOUND,
            f"no ModelRuntime of this cluster serves {snapshot.format} {snapshot.precision}"
            f"{made_for}; {there_are('ModelRuntimes', snapshot.runtimes)}. Install one that does, "
            "or remove spec.serving to make the artifact alone."
            f"{_left_out(snapshot, 'ModelRuntime')}",
        )
    name = min(able, key=lambda n: (-able[n].priority, n))
    return ChosenRuntime(name, able[name])


def _with_method(
    snapshot: Snapshot, name: str, quantizer: QuantizerSpec, precision: QuantizerPrecision
) -> ChosenQuantizer | Problem:
    wanted = snapshot.spec.quantization
    workflow: workflows.Workflow | None = None
    if has_workflow(wanted):
        try:
            workflow = _workflow(wanted, name, quantizer)
        except workflows.WorkflowRefusedError as refused:
            return Problem(Reason.WORKFLOW_NOT_SUPPORTED, str(refused))
        # What one in the store does with it, resolve finds out.
        need = CalibrationNeed(workflow.calibration) if workflow else CalibrationNeed.OPTIONAL
        method = QuantizerMethod(name=WORKFLOW, calibration=need)
    elif wanted.method is None:
        # Calibration text given: prefer the first method that uses it over the plain default.
        uses = [m for m in precision.methods if m.calibration is not CalibrationNeed.IGNORED]
        free = [m for m in precision.methods if m.calibration is not CalibrationNeed.REQUIRED]
        preferred = uses if wanted.calibration else free
        method = (preferred or precision.methods)[0]
    else:
        named = [m for m in precision.methods if m.name == wanted.method]
        if not named:
            return Problem(
                Reason.METHOD_NOT_SUPPORTED,
                f"spec.quantization.method is {wanted.method!r}, which Quantizer {name!r} does not "
                f"offer for {precision.name}; possible: "
                f"{_listed(m.name for m in precision.methods)}.",
            )
        method = named[0]
    if method.calibration is CalibrationNeed.REQUIRED and wanted.calibration is None:
        return Problem(
            Reason.CALIBRATION_REQUIRED,
            f"{precision.name} by {method.name} needs calibration text: set "
            "spec.quantization.calibration.uri.",
        )
    if method.calibration is CalibrationNeed.IGNORED and wanted.calibration is not None:
        return Problem(
            Reason.CALIBRATION_IGNORED,
            f"{precision.name} by {method.name} makes no use of calibration text: remove "
            "spec.quantization.calibration, or choose a method that does.",
        )
    told = workflow.text if workflow else None
    return ChosenQuantizer(name, quantizer, precision, method, told)


def has_workflow(wanted: Recipe) -> bool:
    """Whether the recipe has a workflow in a method's place."""
    return wanted.workflow is not None or wanted.workflow_from is not None


def allowed_passes(quantizer: QuantizerSpec) -> tuple[AllowedPass, ...]:
    """What a workflow may have, as pods are told it."""
    return tuple(
        AllowedPass(type=each.type, settings=tuple(each.settings), calibration=each.calibration)
        for each in quantizer.passes
    )


def _workflow(wanted: Recipe, name: str, quantizer: QuantizerSpec) -> workflows.Workflow | None:
    """The workflow in the spec; None where it lies in the store."""
    allowed = allowed_passes(quantizer)
    if wanted.workflow is not None:
        return workflows.read(wanted.workflow, workflows.INLINE, name, allowed)
    workflows.check_runs_any(workflows.STORED, name, allowed)
    return None


def _unable(snapshot: Snapshot, name: str, quantizer: QuantizerSpec) -> Problem | None:
    """What beside precision and method the Quantizer cannot do: of the recipe, and of what the
    artifact is to be measured by."""
    wanted = snapshot.spec.quantization
    offered = quantizer.overrides
    if wanted.overrides and (offered is None or snapshot.precision in offered.except_for):
        return Problem(
            Reason.OVERRIDES_NOT_SUPPORTED,
            f"spec.quantization.overrides is set, which Quantizer {name!r} cannot follow for "
            f"{snapshot.format} {snapshot.precision}: remove it, or choose another precision or "
            "Quantizer.",
        )
    for index, override in enumerate(wanted.overrides):
        field = f"spec.quantization.overrides[{index}]"
        if offered and override.precision not in offered.precisions:
            return Problem(
                Reason.PRECISION_NOT_SUPPORTED,
                f"{field}.precision is {override.precision!r}, which Quantizer {name!r} does not "
                f"offer for single tensors; possible: {_listed(offered.precisions)}.",
            )
        try:
            re.compile(override.tensors)
        except re.error as error:
            return Problem(
                Reason.INVALID_SPEC,
                f"{field}.tensors is {override.tensors!r}, which is no regular expression: "
                f"{error}.",
            )
    if wanted.max_file_size and quantizer.file_splitting is FileSplitting.UNSUPPORTED:
        return Problem(
            Reason.MAX_FILE_SIZE_NOT_SUPPORTED,
            f"spec.quantization.maxFileSize is set, but Quantizer {name!r} splits no files: remove "
            "it.",
        )
    given = snapshot.spec.quality.evaluation if snapshot.spec.quality else None
    for field, kind in EVALUATIONS.items():
        if getattr(given, field, None) and kind not in quantizer.evaluations:
            able = {f for f, each in EVALUATIONS.items() if each in quantizer.evaluations}
            return Problem(
                Reason.EVALUATION_NOT_SUPPORTED,
                f"spec.quality.evaluation.{field} is set, by which Quantizer {name!r} cannot "
                f"measure; possible: {_listed(able) or 'nothing'}. Remove it, or choose another "
                "Quantizer.",
            )
    return None


def serves(formats: Iterable[ServedFormat], format_: str, precision: str, hardware: str) -> bool:
    """Whether a ModelRuntime of these formats serves this, made for that hardware or for any."""
    return any(
        f.format == format_
        and (not f.precisions or precision in f.precisions)
        and (not hardware or hardware in f.hardware)
        for f in formats
    )


def _served(runtime: ModelRuntimeSpec) -> str:
    return ", ".join(
        f.format + (f" ({limits})" if (limits := ", ".join([*f.precisions, *f.hardware])) else "")
        for f in runtime.formats
    )


def unreadable(snapshot: Snapshot, field: str, kind: str, name: str) -> Problem | None:
    """The Problem that a field names an object which is there, and cannot be read."""
    why = snapshot.unreadable.get((kind, name))
    if why is None:
        return None
    return Problem(
        NOT_READABLE[kind],
        f"{field} is {name!r}, a {kind} that this operator cannot read ({why}): it was written for "
        "another version. Apply it again in the shape of this one, or name another.",
    )


def _left_out(snapshot: Snapshot, kind: str) -> str:
    """What a message adds that lists objects of a kind, if some of them cannot be read."""
    found = [f"{name} ({why})" for (of, name), why in snapshot.unreadable.items() if of == kind]
    return f" Left out, as this operator cannot read it: {kind} {_listed(found)}." if found else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def there_are(kind: str, names: Iterable[str]) -> str:
    """The objects of a kind that a message lists to choose from."""
    listed = _listed(names)
    return f"there are {kind} {listed}" if listed else f"there are no {kind}"
