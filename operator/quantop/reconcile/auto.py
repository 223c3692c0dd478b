"""``precision: Auto``: a search whose every try is made by the chain that makes a named precision.

Pure. A try is the same snapshot with one precision in place of Auto, taken through resolve, convert
and publish; its figures are kept in ``status.candidates``, where the next pass finds them. What is
chosen is rolled out as if it had been named.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import (
    MAX_CANDIDATES,
    Auto,
    Candidate,
    CandidateState,
    OnFailure,
    QualityStatus,
)
from quantop.api.quantizer import QuantizerPrecision
from quantop.builders.meta import Manifest
from quantop.contract import Stage
from quantop.quantities import human, to_bytes
from quantop.reasons import Reason
from quantop.reconcile import artifact, choices, gate, search
from quantop.reconcile.artifact import ArtifactStep
from quantop.reconcile.choices import ChosenQuantizer
from quantop.reconcile.search import Choose, Option, Outcome
from quantop.reconcile.snapshot import Problem, Snapshot

TOOLCHAIN = {Stage.QUANTIZE, Stage.EVALUATE}
"""The stages whose failure is the candidate's; fetch and publish fail for the source's or the
store's sake, and so would every other candidate."""
OF_ALL_ALIKE = {
    Reason.OUT_OF_MEMORY,
    "CalibrationTextTooShort",
    "CustomCode",
    "DiskFull",
    "EvaluationLabelUnknown",
    "EvaluationTextTooShort",
    "InvalidSource",
    "PromptsUnusable",
    "SequenceTooLong",
    "SourceNotLoadable",
    "SourceQuantized",
    "TasksUnusable",
    "TextNotUtf8",
    "UnsupportedArchitecture",
    "UnsupportedFormat",
    "UnsupportedHead",
    "UnsupportedPooling",
    "UnsupportedTokenizer",
}
"""What those stages say of the source, the texts or the node, whatever the precision."""
MESSAGE_LENGTH = 1024


@dataclass(frozen=True)
class AutoStep:
    """Where the search stands."""

    step: ArtifactStep
    """Where the artifact of the candidate under trial, or of the chosen one, stands."""
    candidates: list[Candidate] = field(default_factory=list)
    chosen: Snapshot | None = None
    """The snapshot as if the chosen precision were named, once the store has its artifact."""


@dataclass(frozen=True)
class _Entry:
    """A precision, as if the spec named it."""

    option: Option
    snapshot: Snapshot
    inputs: str = ""
    quantizer: ChosenQuantizer | None = None
    """None where it cannot be tried."""
    obstacle: Problem | None = None
    """Why it cannot be tried."""


@dataclass(frozen=True)
class _Found:
    """What a try showed."""

    key: str | None = None
    size_bytes: int = 0
    bits_per_weight: str | None = None
    quality: QualityStatus | None = None
    failure: Problem | None = None
    """Why there is no artifact."""


def next_step(snapshot: Snapshot, store: ModelStoreSpec) -> AutoStep:
    """Take the search as far as what is known allows."""
    offered = choices.offered_precisions(snapshot)
    if isinstance(offered, Problem):
        # What is known stays known until there is a Quantizer again.
        return AutoStep(ArtifactStep(problem=offered), list(snapshot.status.candidates))
    entries = _entries(snapshot, store, offered)
    view = _View(snapshot, entries, _recalled(entries, snapshot.status.candidates))
    able = {e.option.precision: e for e in entries if e.quantizer is not None}
    delete: list[Manifest] = []
    while True:
        outcomes = {name: view.outcome(found) for name, found in view.known.items()}
        move = search.next_move([e.option for e in able.values()], outcomes)
        name = move.precision or view.least_bad()
        if name is None:
            step = ArtifactStep(problem=view.nothing_passes(), delete=delete)
            return AutoStep(step, view.candidates())
        entry, is_choice = able[name], isinstance(move, Choose)
        assert entry.quantizer is not None
        step = artifact.next_step(entry.snapshot, store, entry.quantizer)
        step = replace(step, delete=[*delete, *step.delete], job_names=view.job_names(step))
        listed = view.candidates(chosen=name) if is_choice else view.candidates(trying=name)
        found = _found(step)
        if found is None:
            doing = f"{name} is chosen" if is_choice else f"Trying {name}, {view.ordinal}"
            if step.progress:
                reason, message = step.progress
                step = replace(step, progress=(reason, f"{doing}: {message}"))
            return AutoStep(step, listed)
        if is_choice and view.known[name] == found:
            return AutoStep(step, listed, entry.snapshot)
        # New, or not what it was: decide again.
        view = replace(view, known={**view.known, name: found})
        delete = step.delete


def _entries(
    snapshot: Snapshot, store: ModelStoreSpec, offered: Mapping[str, QuantizerPrecision]
) -> list[_Entry]:
    """All precisions that are offered or asked for, the smallest promise first."""
    listed = _auto(snapshot).precisions
    options = [_option(name, offered.get(name)) for name in {*offered, *listed}]
    return [
        _entry(snapshot, store, option, offered.get(option.precision))
        for option in search.in_order(options)[:MAX_CANDIDATES]
    ]


def _option(name: str, precision: QuantizerPrecision | None) -> Option:
    band = precision.bits_per_weight if precision else None
    if band is None:
        # Nothing is promised: tried last, and compared with all.
        return Option(name, Decimal(0), Decimal("Infinity"))
    return Option(name, Decimal(band.min), Decimal(band.max))


def _entry(
    snapshot: Snapshot,
    store: ModelStoreSpec,
    option: Option,
    precision: QuantizerPrecision | None,
) -> _Entry:
    named = choices.with_precision(snapshot, option.precision, precision)
    listed = _auto(snapshot).precisions
    if listed and option.precision not in listed:
        return _Entry(
            option,
            named,
            obstacle=Problem(
                Reason.NOT_LISTED, "spec.quantization.auto.precisions does not list it."
            ),
        )
    quantizer = choices.choose_quantizer(named)
    if isinstance(quantizer, Problem):
        return _Entry(option, named, obstacle=quantizer)
    runtime = choices.choose_runtime(named)
    if isinstance(runtime, Problem):
        return _Entry(option, named, obstacle=runtime)
    inputs = artifact.inputs_hash(named, artifact.conversion_task(named, store, quantizer))
    return _Entry(option, named, inputs, quantizer)


def _auto(snapshot: Snapshot) -> Auto:
    return snapshot.spec.quantization.auto or Auto()


def _recalled(entries: Iterable[_Entry], candidates: Iterable[Candidate]) -> dict[str, _Found]:
    """What earlier passes found, where it was found for the same inputs."""
    inputs = {e.option.precision: e.inputs for e in entries if e.quantizer is not None}
    known = {}
    for c in candidates:
        if not c.inputs_hash or inputs.get(c.precision) != c.inputs_hash:
            continue
        if c.state is CandidateState.FAILED:
            known[c.precision] = _Found(failure=Problem(c.reason, c.message))
        elif c.size_bytes is not None:
            known[c.precision] = _Found(c.key, c.size_bytes, c.bits_per_weight, c.quality)
    return known


def _found(step: ArtifactStep) -> _Found | None:
    """What a step of the chain shows of its candidate; None while it shows nothing."""
    if made := step.artifact:
        return _Found(made.key, made.size_bytes, made.bits_per_weight, step.quality)
    failure = step.failure
    if failure and failure.stage in TOOLCHAIN and failure.reason not in OF_ALL_ALIKE:
        return _Found(failure=Problem(failure.reason, failure.message[:MESSAGE_LENGTH]))
    return None


@dataclass(frozen=True)
class _View:
    """The candidates in the light of what is known of them."""

    snapshot: Snapshot
    entries: Sequence[_Entry]
    known: Mapping[str, _Found]

    @property
    def ordinal(self) -> str:
        """How the candidate under trial is counted."""
        return f"candidate {len(self.known) + 1}"

    def job_names(self, step: ArtifactStep) -> frozenset[str]:
        """Names of the step's Jobs, and of those whose answers are known: they are kept for their
        logs."""
        known = [e for e in self.entries if e.option.precision in self.known]
        return step.job_names.union(*(artifact.job_names(e.snapshot, e.inputs) for e in known))

    def outcome(self, found: _Found) -> Outcome | None:
        """A finding as the search is told it."""
        if found.failure:
            return None
        keeps = gate.check(self.snapshot.spec.quality, found.quality) is None
        return Outcome(found.size_bytes, keeps, self._oversize(found) is None)

    def least_bad(self) -> str | None:
        """What is rolled out although nothing passes, because the limits only warn."""
        limits = self.snapshot.spec.quality
        if limits is None or limits.on_failure is not OnFailure.WARN:
            return None
        return self._best(name for name, found in self.known.items() if not self._oversize(found))

    def nothing_passes(self) -> Problem:
        """What to do when the search has no answer."""
        best = self._nearest()
        if best is None:
            told = [f"{name}: {why.message}" for name, why in self._obstacles()]
            return Problem(
                Reason.NO_CANDIDATE_PASSES, f"no candidate can be made. {' '.join(told)}"
            )
        found = self.known[best]
        fault = self._fault(found)
        assert fault is not None
        return Problem(
            Reason.NO_CANDIDATE_PASSES,
            f"none of the {len(self.known)} candidates tried passes. The best is {best} "
            f"({found.bits_per_weight} bits per weight, {human(found.size_bytes)}): "
            f"{fault.message}",
        )

    def _nearest(self) -> str | None:
        """What came nearest to passing: the smallest that loses little enough, or what lost the
        least."""
        measured = {n: o for n, f in self.known.items() if (o := self.outcome(f)) is not None}
        kept = [name for name, outcome in measured.items() if outcome.keeps]
        if kept:
            return min(kept, key=lambda name: (measured[name].size, name))
        return self._best(measured)

    def _obstacles(self) -> Iterator[tuple[str, Problem]]:
        """Why candidates that were asked for cannot be made."""
        for entry in self.entries:
            name = entry.option.precision
            why = self.known[name].failure if name in self.known else entry.obstacle
            if why and why.reason != Reason.NOT_LISTED:
                yield name, why

    def candidates(self, trying: str | None = None, chosen: str | None = None) -> list[Candidate]:
        """The candidates as the status lists them."""
        return [self._candidate(entry, trying, chosen) for entry in self.entries]

    def _candidate(self, entry: _Entry, trying: str | None, chosen: str | None) -> Candidate:
        name = entry.option.precision
        found = self.known.get(name)
        state, why = self._state(entry, found, trying, chosen)
        quantizer = entry.quantizer
        return Candidate(
            precision=name,
            method=quantizer.method.name if quantizer else None,
            quantizer=quantizer.name if quantizer else None,
            state=state,
            inputs_hash=entry.inputs if found else None,
            key=found.key if found else None,
            size_bytes=found.size_bytes if found and not found.failure else None,
            bits_per_weight=found.bits_per_weight if found else None,
            quality=found.quality if found else None,
            reason=why.reason,
            message=why.message[:MESSAGE_LENGTH],
        )

    def _state(
        self, entry: _Entry, found: _Found | None, trying: str | None, chosen: str | None
    ) -> tuple[CandidateState, Problem]:
        name = entry.option.precision
        if entry.obstacle:
            return CandidateState.SKIPPED, entry.obstacle
        if name == trying:
            return CandidateState.TRYING, Problem(
                Reason.CONVERTING, "It is being made and measured."
            )
        if found is None:
            if trying is not None:
                return CandidateState.PENDING, Problem(Reason.PENDING, "It may be tried.")
            return CandidateState.SKIPPED, self._not_needed(entry, chosen)
        if found.failure:
            return CandidateState.FAILED, found.failure
        fault = self._fault(found)
        if name == chosen:
            if fault:
                return CandidateState.CHOSEN, Problem(
                    fault.reason,
                    f"None of the {len(self.known)} tried passes; this is the best. "
                    f"{fault.message}",
                )
            return CandidateState.CHOSEN, Problem(
                Reason.SMALLEST,
                f"The smallest that passes, with {len(self.known)} of {len(self.entries)} tried.",
            )
        if fault:
            return CandidateState.REJECTED, fault
        return CandidateState.PASSED, Problem(Reason.WITHIN_LIMITS, "It passes.")

    def _not_needed(self, entry: _Entry, chosen: str | None) -> Problem:
        """Why a candidate was left out of a search that is over."""
        place = {e.option.precision: at for at, e in enumerate(self.entries)}
        at = place[entry.option.precision]
        if chosen is not None and place[chosen] < at:
            return Problem(
                Reason.NOT_NEEDED, f"{chosen}, which is promised to be smaller, is chosen."
            )
        for name, found in self.known.items():
            if place[name] < at and self._oversize(found):
                return Problem(
                    Reason.TOO_LARGE,
                    f"{name}, which is promised to be smaller, is too large already.",
                )
        return Problem(
            Reason.NOT_NEEDED, "What is promised to be better was rejected, or could not be made."
        )

    def _fault(self, found: _Found) -> Problem | None:
        return gate.check(self.snapshot.spec.quality, found.quality) or self._oversize(found)

    def _oversize(self, found: _Found) -> Problem | None:
        most = _auto(self.snapshot).max_size
        if most is None or found.size_bytes <= to_bytes(most):
            return None
        return Problem(
            Reason.TOO_LARGE,
            f"spec.quantization.auto.maxSize is {most}, but the artifact has "
            f"{human(found.size_bytes)}: raise it, or let spec.quality allow a greater loss.",
        )

    def _best(self, names: Iterable[str]) -> str | None:
        """The one that lost the least."""
        measured = [name for name in names if not self.known[name].failure]

        def order(name: str) -> tuple[Decimal, Decimal, int, str]:
            found = self.known[name]
            return *_losses(found.quality), found.size_bytes, name

        return min(measured, key=order, default=None)


def _losses(quality: QualityStatus | None) -> tuple[Decimal, Decimal]:
    """How much was lost, for an order: the divergence, which falls steadily with more bits, then
    the perplexity's increase; of embeddings what the cosine similarity lacks. What was not measured
    may have lost anything."""
    if quality and quality.mean_cosine_similarity:
        return 1 - Decimal(quality.mean_cosine_similarity), Decimal(0)
    figures = (quality.mean_kl_divergence, quality.increase_percent) if quality else (None, None)
    divergence, increase = (Decimal(figure or "Infinity") for figure in figures)
    return divergence, increase
