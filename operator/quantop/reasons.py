"""Condition types and reasons: the words that programs may match on.

Reasons of refusals come from the stage that refused (docs/reference/reasons.md lists them all).
"""

from enum import StrEnum


class ConditionType(StrEnum):
    """What a QuantizedModel's conditions are about."""

    READY = "Ready"
    QUANTIZED = "Quantized"
    VERIFIED = "Verified"
    SERVING = "Serving"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Reasons that the operator itself gives."""

    # Going on.
    PENDING = "Pending"
    RESOLVING = "Resolving"
    CONVERTING = "Converting"
    WAITING_FOR_CONVERSION = "WaitingForConversion"
    WAITING_FOR_DRAFT_MODEL = "WaitingForDraftModel"
    MEASURING = "Measuring"
    REPORTING = "Reporting"
    ROLLING_OUT = "RollingOut"
    DELETING = "Deleting"
    # Good.
    PUBLISHED = "Published"
    MEASURED = "Measured"
    COVERED = "Covered"
    SERVING = "Serving"
    READY = "Ready"
    SETTLED = "Settled"
    HEALTHY = "Healthy"
    NOT_REQUESTED = "NotRequested"
    SCALED_TO_ZERO = "ScaledToZero"
    # Of a candidate for precision Auto.
    WITHIN_LIMITS = "WithinLimits"
    SMALLEST = "Smallest"
    FASTEST = "Fastest"
    LEAST_MEMORY = "LeastMemory"
    TOO_LARGE = "TooLarge"
    NOT_LISTED = "NotListed"
    NOT_NEEDED = "NotNeeded"
    # A person must act.
    INVALID_SPEC = "InvalidSpec"
    PRESET_NOT_FOUND = "PresetNotFound"
    PRESET_NOT_READABLE = "PresetNotReadable"
    EVALUATION_REQUIRED = "EvaluationRequired"
    QUALITY_BELOW_LIMIT = "QualityBelowLimit"
    QUALITY_NOT_MEASURED = "QualityNotMeasured"
    SERVING_REQUIRED = "ServingRequired"
    PERFORMANCE_BELOW_LIMIT = "PerformanceBelowLimit"
    PERFORMANCE_NOT_MEASURED = "PerformanceNotMeasured"
    TRIAL_FAILED = "TrialFailed"
    NO_CANDIDATE_PASSES = "NoCandidatePasses"
    STORE_NOT_FOUND = "StoreNotFound"
    STORE_NOT_ALLOWED = "StoreNotAllowed"
    STORE_NOT_READABLE = "StoreNotReadable"
    QUANTIZER_NOT_FOUND = "QuantizerNotFound"
    QUANTIZER_NOT_READABLE = "QuantizerNotReadable"
    PRECISION_NOT_SUPPORTED = "PrecisionNotSupported"
    METHOD_NOT_SUPPORTED = "MethodNotSupported"
    WORKFLOW_NOT_SUPPORTED = "WorkflowNotSupported"
    OVERRIDES_NOT_SUPPORTED = "OverridesNotSupported"
    MAX_FILE_SIZE_NOT_SUPPORTED = "MaxFileSizeNotSupported"
    EVALUATION_NOT_SUPPORTED = "EvaluationNotSupported"
    CALIBRATION_REQUIRED = "CalibrationRequired"
    CALIBRATION_IGNORED = "CalibrationIgnored"
    RUNTIME_NOT_FOUND = "RuntimeNotFound"
    RUNTIME_NOT_READABLE = "RuntimeNotReadable"
    FORMAT_NOT_SERVED = "FormatNotServed"
    OPTION_NOT_SUPPORTED = "OptionNotSupported"
    OPTION_VALUE_NOT_SUPPORTED = "OptionValueNotSupported"
    DRAFT_MODEL_NOT_FOUND = "DraftModelNotFound"
    DRAFT_MODEL_NOT_READY = "DraftModelNotReady"
    DRAFT_MODEL_NOT_USABLE = "DraftModelNotUsable"
    DRAFT_MODEL_IN_USE = "DraftModelInUse"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    SECRET_NOT_FOUND = "SecretNotFound"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    JOB_FAILED = "JobFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    ROLLOUT_FAILED = "RolloutFailed"
    NAME_CONFLICT = "NameConflict"
    DELETION_FAILED = "DeletionFailed"


NOT_READABLE = {
    "ModelStore": Reason.STORE_NOT_READABLE,
    "Quantizer": Reason.QUANTIZER_NOT_READABLE,
    "ModelRuntime": Reason.RUNTIME_NOT_READABLE,
    "Preset": Reason.PRESET_NOT_READABLE,
}
"""By the kind of an object that is stored in a shape which this version does not know."""
