"""``precision: Auto``: a search whose every try is made by the chain that makes a named precision.

Pure. A try is the same snapshot with one precision in place of Auto, taken through resolve, convert
and publish, and through a trial where the objective or a limit asks for one; its figures are kept
in ``status.candidates``, where the next pass finds them. What is chosen is rolled out as if it had
been named.
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
    Objective,
    OnFailure,
    Performance,
    QualityStatus,
)
from quantop.api.quantizer import QuantizerPrecision
from quantop.builders.meta import Manifest
from quantop.contract import Stage
from quantop.quantities import human, to_bytes
from quantop.reasons import Reason
from quantop.reconcile import artifact, choices, gate, hardware, search, trial
from quantop.reconcile.artifact import ArtifactStep
from quantop.reconcile.choices import ChosenQuantizer, ChosenRuntime
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
    "SavedModelRefused",
    "SequenceTooLong",
    "SourceNotLoadable",
    "SourceQuantized",
    "TasksUnusable",
    "TextNotUtf8",
    "UnsupportedArchitecture",
    "UnsupportedFormat",
    "UnsupportedGraph",
    "UnsupportedHead",
    "UnsupportedPooling",
    "UnsupportedTokenizer",
}
"""What those stages say of the source, the texts or the node, whatever the precision."""
MESSAGE_LENGTH = 1024
BEST = {
    Objective.SIZE: (Reason.SMALLEST, "The smallest"),
    Objective.LATENCY: (Reason.FASTEST, "The fastest"),
    Objective.MEMORY: (Reason.LEAST_MEMORY, "The one that takes the least memory"),
}
"""What is said of the choice."""


@dataclass(frozen=True)
class AutoStep:
    """Where the search stands."""

    step: ArtifactStep
    """Where the artifact of the candidate under trial, or of the chosen one, stands."""
    candidates: list[Candidate] = field(default_factory=list)
    chosen: Snapshot | None = None
    """The snapshot as if the chosen precision were named, once the store has its artifact."""
    performance: Performance | None = None
    """How the chosen one did in its trial, where there was one."""
    nearest: Candidate | None = None
    """Of those tried, the one that came nearest to passing, once none passes."""


@dataclass(frozen=True)
class _Entry:
    """A precision, as if the spec named it."""

    option: Option
    snapshot: Snapshot
    inputs: str = ""
    quantizer: ChosenQuantizer | None = None
    """None where it cannot be tried."""
    runtime: ChosenRuntime | None = None
    """None where it cannot be tried, or is not to be served."""
    obstacle: Problem | None = None
    """Why it cannot be tried."""
    shortage: Problem | None = None
    """Why no node can take its engine; what was tried before has had one."""


@dataclass(frozen=True)
class _Found:
    """What a try showed."""

    key: str | None = None
    size_bytes: int = 0
    bits_per_weight: str | None = None
    quality: QualityStatus | None = None
    performance: Performance | None = None
    failure: Problem | None = None
    """Why there is no artifact."""

    @property
    def fault(self) -> Problem | None:
        """Why there is no artifact, or none that its engine can use."""
        return self.failure or trial.failure(self.performance)


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
        options = [e.option for e in able.values()]
        move = search.next_move(options, view.outcomes(), view.objective)
        name = move.precision or view.least_bad()
        if name is None:
            step = ArtifactStep(problem=view.nothing_passes(), delete=delete)
            listed, best = view.candidates(), view.nearest()
            nearest = next((c for c in listed if c.precision == best), None)
            return AutoStep(step, listed, nearest=nearest)
        entry, is_choice = able[name], isinstance(move, Choose)
        assert entry.quantizer is not None
        step = artifact.next_step(entry.snapshot, store, entry.quantizer)
        step = replace(step, delete=[*delete, *step.delete], job_names=view.job_names(step))
        listed = view.candidates(chosen=name) if is_choice else view.candidates(trying=name)
        found = _found(step, view.known.get(name))
        going_on = found is None
        if found and step.artifact and entry.runtime and view.asks_for_a_trial(name, found):
            shown = found.performance
            tried = trial.next_step(entry.snapshot, store, entry.runtime, step.artifact, shown)
            found = replace(found, performance=tried.performance)
            going_on = tried.performance is None
            if going_on:
                view = replace(view, known={**view.known, name: found})
                listed = view.candidates(trying=name)
                step = replace(step, progress=tried.progress, problem=tried.problem)
            step = trial.joined(step, tried)
        if found is None or going_on:
            doing = f"{name} is chosen" if is_choice else f"Trying {name}, {view.ordinal}"
            if step.progress:
                reason, message = step.progress
                step = replace(step, progress=(reason, f"{doing}: {message}"))
            return AutoStep(step, listed)
        if is_choice and view.known[name] == found:
            return AutoStep(step, listed, entry.snapshot, found.performance)
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
    shortage = hardware.shortage(named, runtime) if runtime else None
    return _Entry(option, named, inputs, quantizer, runtime, shortage=shortage)


def _auto(snapshot: Snapshot) -> Auto:
    return snapshot.spec.quantization.auto or Auto()


def _recalled(entries: Iterable[_Entry], candidates: Iterable[Candidate]) -> dict[str, _Found]:
    """What earlier passes found, where it was found for the same inputs."""
    able = {e.option.precision: e for e in entries if e.quantizer is not None}
    known = {}
    for c in candidates:
        entry = able.get(c.precision)
        if entry is None or not c.inputs_hash or entry.inputs != c.inputs_hash:
            continue
        if c.key is None:
            known[c.precision] = _Found(failure=Problem(c.reason, c.message))
        elif c.size_bytes is not None:
            shown = trial.recalled(entry.snapshot, entry.runtime, c.key, c.performance)
            known[c.precision] = _Found(c.key, c.size_bytes, c.bits_per_weight, c.quality, shown)
    return known


def _found(step: ArtifactStep, known: _Found | None) -> _Found | None:
    """What a step of the chain shows of its candidate, beside what is known of the same artifact's
    trial; None while it shows nothing."""
    if made := step.artifact:
        shown = known.performance if known and known.key == made.key else None
        return _Found(made.key, made.size_bytes, made.bits_per_weight, step.quality, shown)
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
    def objective(self) -> Objective:
        """What the choice has the least of."""
        return _auto(self.snapshot).minimize

    @property
    def ordinal(self) -> str:
        """How the candidate under trial is counted."""
        return f"candidate {len(self.outcomes()) + 1}"

    def job_names(self, step: ArtifactStep) -> frozenset[str]:
        """Names of the step's Jobs, and of those whose answers are known: they are kept for their
        logs."""
        known = [e for e in self.entries if e.option.precision in self.known]
        return step.job_names.union(*(artifact.job_names(e.snapshot, e.inputs) for e in known))

    def asks_for_a_trial(self, name: str, found: _Found) -> bool:
        """Whether a trial can still decide: of what is out already none is made."""
        limits = self.snapshot.spec.quality
        return (
            trial.is_wanted(self.snapshot.spec)
            and found.failure is None
            and gate.check(limits, found.quality) is None
            and self._oversize(name, found) is None
        )

    def outcomes(self) -> dict[str, Outcome | None]:
        """What is known, as the search is told it: of a candidate nothing before its trial; one
        that no node can take is as one that cannot be made."""
        untried = {
            e.option.precision: None
            for e in self.entries
            if e.shortage and e.option.precision not in self.known
        }
        return untried | {
            name: self._outcome(name, found)
            for name, found in self.known.items()
            if found.performance or not self.asks_for_a_trial(name, found)
        }

    def _outcome(self, name: str, found: _Found) -> Outcome | None:
        if found.fault:
            return None
        limits, shown = self.snapshot.spec.quality, found.performance
        quick = within = True
        if shown:
            within = gate.check_performance(limits, shown, [gate.MEMORY]) is None
            others = [each for each in gate.PERFORMANCE_LIMITS if each is not gate.MEMORY]
            quick = gate.check_performance(limits, shown, others) is None
        return Outcome(
            found.size_bytes,
            keeps=gate.check(limits, found.quality) is None,
            fits=within and self._oversize(name, found) is None,
            quick=quick,
            bits=Decimal(found.bits_per_weight) if found.bits_per_weight else None,
            cost=self._cost(shown),
        )

    def _cost(self, shown: Performance | None) -> int | None:
        """What the objective compares: bytes of memory, or microseconds to an answer."""
        if shown is None or self.objective is Objective.SIZE:
            return None
        if self.objective is Objective.MEMORY:
            return shown.peak_memory_bytes
        answer = shown.answer_milliseconds
        return None if answer is None else int(Decimal(answer) * 1000)

    def least_bad(self) -> str | None:
        """What is rolled out although nothing passes, because the limits only warn."""
        limits = self.snapshot.spec.quality
        if limits is None or limits.on_failure is not OnFailure.WARN:
            return None
        return self._best(
            name
            for name, found in self.known.items()
            if not found.fault and not self._oversize(name, found)
        )

    def nothing_passes(self) -> Problem:
        """What to do when the search has no answer."""
        best = self.nearest()
        if best is None:
            told = [f"{name}: {why.message}" for name, why in self._obstacles()]
            return Problem(
                Reason.NO_CANDIDATE_PASSES, f"no candidate can be made. {' '.join(told)}"
            )
        found = self.known[best]
        fault = self._fault(best, found)
        assert fault is not None
        return Problem(
            Reason.NO_CANDIDATE_PASSES,
            f"none of the {len(self.known)} candidates tried passes. The best is {best} "
            f"({found.bits_per_weight} bits per weight, {human(found.size_bytes)}): "
            f"{fault.message}",
        )

    def nearest(self) -> str | None:
        """What came nearest to passing: the smallest that loses little enough, or what lost the
        least."""
        measured = {n: o for n, f in self.known.items() if (o := self._outcome(n, f)) is not None}
        kept = [name for name, outcome in measured.items() if outcome.keeps]
        if kept:
            return min(kept, key=lambda name: (measured[name].size, name))
        return self._best(measured)

    def _obstacles(self) -> Iterator[tuple[str, Problem]]:
        """Why candidates that were asked for cannot be made."""
        for entry in self.entries:
            name = entry.option.precision
            why = entry.obstacle or entry.shortage
            if name in self.known:
                why = self.known[name].fault
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
            performance=found.performance if found else None,
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
        if found is None and entry.shortage:
            return CandidateState.SKIPPED, entry.shortage
        if found is None:
            if trying is not None:
                return CandidateState.PENDING, Problem(Reason.PENDING, "It may be tried.")
            return CandidateState.SKIPPED, self._not_needed(entry, chosen)
        if found.fault:
            return CandidateState.FAILED, found.fault
        fault = self._fault(name, found)
        if name == chosen:
            if fault:
                return CandidateState.CHOSEN, Problem(
                    fault.reason,
                    f"None of the {len(self.known)} tried passes; this is the best. "
                    f"{fault.message}",
                )
            reason, what = BEST[self.objective]
            return CandidateState.CHOSEN, Problem(
                reason, f"{what} that passes, with {len(self.known)} of {len(self.entries)} tried."
            )
        if fault:
            return CandidateState.REJECTED, fault
        return CandidateState.PASSED, Problem(Reason.WITHIN_LIMITS, "It passes.")

    def _not_needed(self, entry: _Entry, chosen: str | None) -> Problem:
        """Why a candidate was left out of a search that is over."""
        place = {e.option.precision: at for at, e in enumerate(self.entries)}
        at = place[entry.option.precision]
        if chosen is not None and place[chosen] < at and self.objective is Objective.MEMORY:
            return Problem(
                Reason.NOT_NEEDED,
                f"What it promises would take more memory than {chosen} does, or as many were "
                "tried as may be.",
            )
        if chosen is not None and place[chosen] < at:
            return Problem(
                Reason.NOT_NEEDED, f"{chosen}, which is promised to be smaller, is chosen."
            )
        for name, found in self.known.items():
            if place[name] < at and self._oversize(name, found):
                return Problem(
                    Reason.TOO_LARGE,
                    f"{name}, which is promised to be smaller, is too large already.",
                )
        return Problem(
            Reason.NOT_NEEDED, "What is promised to be better was rejected, or could not be made."
        )

    def _fault(self, name: str, found: _Found) -> Problem | None:
        limits, shown = self.snapshot.spec.quality, found.performance
        return (
            gate.check(limits, found.quality)
            or self._oversize(name, found)
            or (gate.check_performance(limits, shown) if shown else None)
        )

    def _oversize(self, name: str, found: _Found) -> Problem | None:
        most = _auto(self.snapshot).max_size
        if most is not None and found.size_bytes > to_bytes(most):
            return Problem(
                Reason.TOO_LARGE,
                f"spec.quantization.auto.maxSize is {most}, but the artifact has "
                f"{human(found.size_bytes)}: raise it, or let spec.quality allow a greater loss.",
            )
        entry = next(each for each in self.entries if each.option.precision == name)
        if entry.runtime is None:
            return None
        return hardware.oversize(entry.snapshot, entry.runtime, found.size_bytes)

    def _best(self, names: Iterable[str]) -> str | None:
        """The one that lost the least."""
        measured = [name for name in names if not self.known[name].failure]

        def order(name: str) -> tuple[Decimal, Decimal, int, str]:
            found = self.known[name]
            return *_losses(found.quality), found.size_bytes, name

        return min(measured, key=order, default=None)


def _losses(quality: QualityStatus | None) -> tuple[Decimal, Decimal]:
    """How much was lost, for an order: the divergence, which falls steadily with more bits, then
    the perplexity's increase; of embeddings what the cosine similarity lacks; without a text the
    accuracy in tasks, then the answers that are not the same. What was not measured may have lost
    anything."""
    anything = Decimal("Infinity")
    if quality is None:
        return anything, anything
    if quality.mean_cosine_similarity:
        return 1 - Decimal(quality.mean_cosine_similarity), Decimal(0)
    figures = (quality.mean_kl_divergence, quality.increase_percent)
    if not any(figures):
        same = quality.answer_agreement_percent
        figures = (quality.task_accuracy_drop_points, str(100 - Decimal(same)) if same else None)
    first, second = (Decimal(figure or anything) for figure in figures)
    return first, second
