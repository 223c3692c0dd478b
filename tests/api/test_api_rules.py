"""Every CEL rule refuses a manifest, with its sentence, on a real API server."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from quantop.api import quantizedmodel
from quantop.api.crds import crds
from quantop.api.kinds import KINDS
from quantop.api.quantizedmodel import PERFORMANCE_LIMITS

from tests.api.manifests import CERTIFICATE, good, put
from tests.kube import Kubectl, Object


@dataclass(frozen=True)
class Refusal:
    """Changes, by path, to a good manifest, and a part of the sentence they are refused with."""

    kind: str
    sentence: str
    changes: dict[str, Any] = field(default_factory=dict)

    def manifest(self) -> Object:
        manifest = good(self.kind)
        for path, value in self.changes.items():
            put(manifest, path, value)
        return manifest

    def __str__(self) -> str:
        return f"{self.kind}: " + ", ".join(f"{k}={v}" for k, v in self.changes.items())


QM, STORE, QUANTIZER, RUNTIME, PRESET = (kind.name for kind in KINDS)
SOURCE, QUANTIZATION, SERVING = "spec.source", "spec.quantization", "spec.serving"
EVALUATION = "spec.quality.evaluation"
BUCKET = {f"{SOURCE}.revision": None}
TEXT = "the uri of a text must be s3://BUCKET/KEY or pvc://CLAIM/PATH, without '..'"
REQUESTS = "requests must name cpu, memory, ephemeral-storage, hugepages-SIZE or an extended"
LIMITS = "limits must name cpu, memory, ephemeral-storage, hugepages-SIZE or an extended resource"
ABOVE = "requests must not be above limits: lower the one or raise the other"
OPERATORS = "spec.env must not set what the operator sets itself: "
UNUSABLE = {"gpu": "1"}
OPTION = "spec.options.0"
BY_PRESET = {
    f"{QUANTIZATION}.{field}": None
    for field in (
        *("format", "precision", "method", "quantizerName"),
        *("overrides", "maxFileSize"),
    )
} | {f"{QUANTIZATION}.presetName": "mobile"}
WITHOUT_METHOD: dict[str, Object] = {
    QM: {f"{QUANTIZATION}.method": None},
    PRESET: {f"{QUANTIZATION}.auto": None, f"{QUANTIZATION}.precision": "Q4_K_M"},
}
WORKFLOWS: Object = {"workflow": "{}", "workflowFrom": {"uri": "s3://bucket/key"}}
AUTO = {f"{QUANTIZATION}.precision": "Auto", f"{QUANTIZATION}.method": None}

TOO_FEW_OR_TOO_MANY: list[Object] = [
    {},
    {"precisions": []},
    {"precisions": [f"Q{number}" for number in range(17)]},
]
WITHOUT_TRIAL_LIMITS = {f"spec.quality.{limit}": None for limit in PERFORMANCE_LIMITS}


def only(*kept: str) -> Object:
    """Changes that leave a good manifest no limits on what a quantization cost but these."""
    return {f"spec.quality.{limit}": None for limit in quantizedmodel.LIMITS if limit not in kept}


REFUSALS = [
    *(
        Refusal(
            QM,
            "spec.quality.maxTimeToFirstTokenMilliseconds, minTokensPerSecond, maxMemory are meas",
            {
                "spec.serving": None,
                **{k: v for k, v in WITHOUT_TRIAL_LIMITS.items() if not k.endswith(limit)},
            },
        )
        for limit in PERFORMANCE_LIMITS
    ),
    *(
        Refusal(
            QM,
            "spec.quantization.auto.minimize Latency and Memory are measured in the engine that s",
            {
                **AUTO,
                **WITHOUT_TRIAL_LIMITS,
                "spec.serving": None,
                f"{QUANTIZATION}.auto": {"minimize": objective, "precisions": ["Q4_0"]},
            },
        )
        for objective in ("Latency", "Memory")
    ),
    *(
        Refusal(
            kind,
            "spec.quantization.auto.minimize Latency tries every candidate, as nothing but a tria",
            {**changes, f"{QUANTIZATION}.auto": {"minimize": "Latency", **precisions}},
        )
        for kind, changes in ((QM, AUTO), (PRESET, {}))
        for precisions in TOO_FEW_OR_TOO_MANY
    ),
    *(
        Refusal(
            kind,
            f"spec.quality.{field} must be at most {most}",
            {f"spec.quality.{field}": above},
        )
        for field, most in quantizedmodel.HIGHEST.items()
        for kind in (QM, PRESET)
        for above in (most + 1, f"{most}.1")
    ),
    *(
        Refusal(
            QM,
            "spec.quantization needs a recipe: set format and precision, or presetName",
            {f"{QUANTIZATION}.{field}": None for field in missing},
        )
        for missing in (["format"], ["precision"], ["format", "precision"])
    ),
    *(
        Refusal(
            QM,
            "spec.quantization.presetName names a whole recipe: remove format, precision, auto, m",
            BY_PRESET | {f"{QUANTIZATION}.{field}": value},
        )
        for field, value in {
            "format": "GGUF",
            "precision": "Q4_K_M",
            "auto": {"maxSize": "4Gi"},
            "method": "GPTQ",
            "workflow": "{}",
            "workflowFrom": {"uri": "s3://bucket/key"},
            "overrides": [{"tensors": "ffn_down", "precision": "Q8_0"}],
            "maxFileSize": "5Gi",
            "quantizerName": "llama-cpp",
        }.items()
    ),
    *(
        Refusal(
            kind,
            "spec.quantization.maxFileSize must be at least 1Mi",
            {f"{QUANTIZATION}.maxFileSize": size},
        )
        for kind in (QM, PRESET)
        for size in ("1000k", 1_048_575)
    ),
    Refusal(QM, "metadata.name must be at most 46 characters", {"metadata.name": "a" * 47}),
    Refusal(QM, "metadata.name must begin with a letter and hold only", {"metadata.name": "4bit"}),
    Refusal(QM, "metadata.name must begin with a letter and hold only", {"metadata.name": "q4.1"}),
    Refusal(
        QM,
        "spec.serving.engine.draftModel.name must name another QuantizedModel, a smaller one",
        {f"{SERVING}.engine.draftModel.name": "good"},
    ),
    Refusal(
        QM,
        "spec.source.uri must begin with hf://, s3:// or pvc://: hf://OWNER/NAME",
        {**BUCKET, f"{SOURCE}.uri": "https://example.com/model"},
    ),
    Refusal(QM, "spec.source.uri of a hub must be hf://OWNER/NAME", {f"{SOURCE}.uri": "hf://name"}),
    Refusal(
        QM, "put a commit, branch or tag into spec.source.revision", {f"{SOURCE}.uri": "hf://a/b/c"}
    ),
    Refusal(
        QM,
        "spec.source.uri of a bucket must be s3://BUCKET/PREFIX",
        {**BUCKET, f"{SOURCE}.uri": "s3:///prefix"},
    ),
    Refusal(
        QM,
        "spec.source.uri of a claim must be pvc://CLAIM/PATH",
        {
            **BUCKET,
            f"{SOURCE}.credentialsSecretName": None,
            f"{SOURCE}.uri": "pvc://My_Claim/path",
        },
    ),
    Refusal(
        QM,
        "spec.source.revision names a commit, branch or tag of a hub: remove it, or use an hf://",
        {f"{SOURCE}.uri": "s3://bucket/prefix"},
    ),
    Refusal(
        QM,
        "spec.source.uri must not contain '..': name the folder itself",
        {**BUCKET, f"{SOURCE}.uri": "s3://bucket/a/../b"},
    ),
    Refusal(
        QM,
        "spec.source.credentialsSecretName has no use with a pvc:// uri: remove it",
        {**BUCKET, f"{SOURCE}.uri": "pvc://claim/path"},
    ),
    *(
        Refusal(QM, TEXT, {f"{path}.uri": uri})
        for path in (f"{QUANTIZATION}.calibration", EVALUATION, f"{EVALUATION}.prompts")
        for uri in ("https://example.com/text", "s3://bucket", "pvc://claim/../text")
    ),
    *(
        Refusal(
            QM,
            "the uri of tasks must be s3://BUCKET/PREFIX or pvc://CLAIM/PATH, without '..'",
            {f"{EVALUATION}.tasks.uri": uri},
        )
        for uri in ("https://example.com/tasks", "s3://bucket", "pvc://claim/../tasks")
    ),
    *(
        Refusal(QM, f"set {EVALUATION}.{field}, or remove", {**only(limit), **without})
        for field, limits in quantizedmodel.EVIDENCE.items()
        for limit in limits
        for without in ({EVALUATION: None}, {f"{EVALUATION}.{field}": None})
    ),
    Refusal(
        QM,
        "spec.quality.evaluation names nothing to measure by: set uri or prompts or tasks",
        {**only(), EVALUATION: {"maxTokens": 4096}},
    ),
    Refusal(
        QM,
        "spec.quantization.auto says how a precision is chosen: set precision to Auto",
        {f"{QUANTIZATION}.auto": {"maxSize": "4Gi"}},
    ),
    Refusal(
        QM,
        "spec.quantization.method is chosen with the precision when that is Auto: remove it",
        {f"{QUANTIZATION}.precision": "Auto"},
    ),
    *(
        Refusal(
            kind,
            "spec.quantization.precision Auto needs a limit that the choice must keep: set spec.q",
            {**changes, **dict.fromkeys(without)},
        )
        for kind, changes in ((QM, AUTO), (PRESET, {}))
        for without in (
            ["spec.quality"],
            [f"spec.quality.{limit}" for limit in quantizedmodel.LIMITS],
        )
    ),
    Refusal(
        PRESET,
        "spec.quantization.auto says how a precision is chosen: set precision to Auto",
        {f"{QUANTIZATION}.precision": "Q4_K_M"},
    ),
    Refusal(
        PRESET,
        "spec.quantization.method is chosen with the precision when that is Auto: remove it",
        {f"{QUANTIZATION}.method": "GPTQ"},
    ),
    *(
        Refusal(
            kind,
            "spec.quantization.workflow and workflowFrom make one precision: name it in place of A",
            {**changes, f"{QUANTIZATION}.{field}": value},
        )
        for kind, changes in ((QM, AUTO), (PRESET, {}))
        for field, value in WORKFLOWS.items()
    ),
    *(
        Refusal(
            kind,
            "spec.quantization.workflow and workflowFrom are run in place of a method: remove meth",
            {**changes, f"{QUANTIZATION}.{field}": value},
        )
        for kind, changes in (
            (QM, {}),
            (
                PRESET,
                {
                    f"{QUANTIZATION}.auto": None,
                    f"{QUANTIZATION}.precision": "Q4_K_M",
                    f"{QUANTIZATION}.method": "GPTQ",
                },
            ),
        )
        for field, value in WORKFLOWS.items()
    ),
    *(
        Refusal(
            kind,
            "spec.quantization.workflow and workflowFrom are two workflows: remove one of them",
            {
                **changes,
                **{f"{QUANTIZATION}.{field}": value for field, value in WORKFLOWS.items()},
            },
        )
        for kind, changes in WITHOUT_METHOD.items()
    ),
    *(
        Refusal(kind, TEXT, {**changes, f"{QUANTIZATION}.workflowFrom": {"uri": uri}})
        for kind, changes in WITHOUT_METHOD.items()
        for uri in ("hf://owner/name", "s3://bucket", "pvc://claim/../key")
    ),
    Refusal(
        QM,
        "spec.serving.scaling.minReplicas must not be above maxReplicas",
        {f"{SERVING}.scaling.minReplicas": 4},
    ),
    *(
        Refusal(kind, sentence, {f"{path}.resources": resources, **others})
        for kind, path, others in (
            (QM, QUANTIZATION, {}),
            (QM, SERVING, {}),
            (RUNTIME, "spec", {"spec.options": None}),
        )
        for sentence, resources in (
            (REQUESTS, {"requests": UNUSABLE}),
            (LIMITS, {"limits": UNUSABLE}),
            (ABOVE, {"requests": {"memory": "2Gi"}, "limits": {"memory": "2G"}}),
            (ABOVE, {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}),
        )
    ),
    Refusal(
        STORE,
        "spec.s3.endpoint must be http(s)://HOST[:PORT] without a path",
        {"spec.s3.endpoint": "https://s3.example.com/bucket"},
    ),
    *(
        Refusal(
            STORE,
            "spec.s3.prefix must not begin or end with '/' nor contain '..'",
            {"spec.s3.prefix": prefix},
        )
        for prefix in ("/a", "a/", "a/../b")
    ),
    *(
        Refusal(
            STORE,
            "spec.s3.caBundle needs an https:// endpoint to check",
            {"spec.s3.endpoint": endpoint, "spec.s3.caBundle": CERTIFICATE},
        )
        for endpoint in (None, "http://s3.example.com")
    ),
    Refusal(
        STORE,
        "spec.s3.caBundle must hold PEM certificates (-----BEGIN CERTIFICATE-----)",
        {"spec.s3.caBundle": "/etc/ssl/ca.pem"},
    ),
    *(
        Refusal(
            STORE,
            "spec.allowedNamespaces.matchLabels goes with from: Selector, and only with it",
            {"spec.allowedNamespaces": allowed},
        )
        for allowed in ({"from": "Selector"}, {"from": "All", "matchLabels": {"a": "b"}})
    ),
    *(
        Refusal(
            QUANTIZER,
            "bitsPerWeight.min must be 0 or more and below bitsPerWeight.max",
            {"spec.precisions.0.bitsPerWeight": {"min": low, "max": "6"}},
        )
        for low in ("-1", "6", "6.5")
    ),
    Refusal(QUANTIZER, "a precision must not be named Auto", {"spec.precisions.0.name": "Auto"}),
    Refusal(
        QUANTIZER,
        "a method must not be named Workflow, which stands for spec.quantization.workflow: give",
        {"spec.precisions.0.methods.0.name": "Workflow"},
    ),
    Refusal(QUANTIZER, OPERATORS + "WORK_DIR, ", {"spec.env.0.name": "FORMAT"}),
    Refusal(RUNTIME, OPERATORS + "MODEL_DIR, ", {"spec.env.0.name": "PORT"}),
    Refusal(RUNTIME, OPERATORS + "MODEL_DIR, ", {"spec.env.0.name": "KV_CACHE_TYPE"}),
    Refusal(
        RUNTIME,
        "values are those of kvCacheType and prefixCaching",
        {f"{OPTION}.values": [{"value": "2"}]},
    ),
    *(
        Refusal(
            RUNTIME,
            "prefixCaching needs values with arguments for Enabled, Disabled or both",
            {"spec.options.1": {"name": "prefixCaching", **caching}},
        )
        for caching in (
            {"args": ["--cache"]},
            {"values": [{"value": "Maybe", "args": ["--cache"]}]},
        )
    ),
    Refusal(
        RUNTIME,
        "maximum is that of a number: remove it, or list the values of kvCacheType",
        {"spec.options.1.maximum": 2},
    ),
    Refusal(
        RUNTIME,
        "multiplies goes with tensorParallelSize and pipelineParallelSize: remove it",
        {f"{OPTION}.name": "maxConcurrentRequests"},
    ),
    *(
        Refusal(RUNTIME, "an option must become something: give args", {"spec.options.1": option})
        for option in (
            {"name": "maxModelLength"},
            {"name": "kvCacheType", "values": [{"value": "f16"}]},
        )
    ),
    *(
        Refusal(
            RUNTIME,
            "spec.options multiplies extended resources of spec.resources.limits: give how many",
            changes,
        )
        for changes in (
            {"spec.resources": None},
            {"spec.resources.limits": None},
            {f"{OPTION}.multiplies": ["amd.com/gpu"]},
            {f"{OPTION}.multiplies": ["memory"]},
        )
    ),
]


def rules_of(schema: Object) -> Iterator[str]:
    """The sentences of all rules in a schema."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield rule["message"]
    for part in schema.get("properties", {}).values():
        yield from rules_of(part)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from rules_of(schema[key])


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_a_good_manifest_is_taken(kubectl: Kubectl, kind: str) -> None:
    """Else a refusal would prove nothing."""
    answer = kubectl.try_apply(good(kind))
    assert answer.ok, answer.text


@pytest.mark.parametrize("limit", quantizedmodel.LIMITS)
def test_any_limit_will_do_for_a_choice(kubectl: Kubectl, limit: str) -> None:
    others = {f"spec.quality.{other}": None for other in quantizedmodel.LIMITS if other != limit}
    answer = kubectl.try_apply(Refusal(QM, "", {**AUTO, **others}).manifest())
    assert answer.ok, answer.text


@pytest.mark.parametrize(
    ("kept", "evaluation"),
    [
        (quantizedmodel.EVIDENCE["uri"], {"uri": "s3://texts/evaluation.txt"}),
        (quantizedmodel.EVIDENCE["prompts"], {"prompts": {"uri": "s3://texts/prompts.txt"}}),
        (quantizedmodel.EVIDENCE["tasks"], {"tasks": {"uri": "s3://texts/tasks/"}}),
        ((), None),
    ],
    ids=[*quantizedmodel.EVIDENCE, "nothing"],
)
def test_a_limit_needs_no_more_than_what_it_is_measured_by(
    kubectl: Kubectl, kept: tuple[str, ...], evaluation: Object | None
) -> None:
    """Those on what a trial shows, which all of these manifests have, need nothing of it."""
    manifest = Refusal(QM, "", {**only(*kept), EVALUATION: evaluation}).manifest()
    assert manifest["spec"]["quality"].keys() >= {*PERFORMANCE_LIMITS, *kept}
    answer = kubectl.try_apply(manifest)
    assert answer.ok, answer.text


def test_a_precision_may_be_left_to_the_operator(kubectl: Kubectl) -> None:
    for auto in (
        None,
        {"maxSize": "4Gi", "precisions": ["Q4_K_M", "Q8_0"], "minimize": "Size"},
        {"minimize": "Memory"},
        {"minimize": "Latency", "precisions": [f"Q{number}" for number in range(16)]},
    ):
        manifest = Refusal(QM, "", {**AUTO, **({f"{QUANTIZATION}.auto": auto} if auto else {})})
        answer = kubectl.try_apply(manifest.manifest())
        assert answer.ok, answer.text


def test_a_limit_of_quality_is_no_ground_to_ask_for_serving(kubectl: Kubectl) -> None:
    """Nor is the objective Size."""
    for changes in ({}, {**AUTO, f"{QUANTIZATION}.auto": {"minimize": "Size"}}):
        without = {"spec.serving": None, **WITHOUT_TRIAL_LIMITS, **changes}
        answer = kubectl.try_apply(Refusal(QM, "", without).manifest())
        assert answer.ok, answer.text


@pytest.mark.parametrize("quality", [None, {"evaluation": {"uri": "s3://texts/evaluation.txt"}}])
def test_a_recipe_may_be_a_presets(kubectl: Kubectl, quality: Object | None) -> None:
    """With calibration text and resources beside it, and limits of one's own or none."""
    manifest = Refusal(QM, "", BY_PRESET).manifest()
    assert {"calibration", "resources"} < manifest["spec"]["quantization"].keys()
    answer = kubectl.try_apply(put(manifest, "spec.quality", quality))
    assert answer.ok, answer.text


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_rule_refuses_with_its_sentence(kubectl: Kubectl, refusal: Refusal) -> None:
    answer = kubectl.try_apply(refusal.manifest())
    assert not answer.ok
    assert refusal.sentence in answer.text
    assert answer.text.count("Invalid value") == 1, "one fault, one complaint"


@pytest.mark.parametrize("crd", crds(), ids=lambda crd: crd["spec"]["names"]["kind"])
def test_every_rule_has_a_refusal(crd: Object) -> None:
    kind = crd["spec"]["names"]["kind"]
    sentences = [refusal.sentence for refusal in REFUSALS if refusal.kind == kind]
    rules = set(rules_of(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    assert rules
    missing = {rule for rule in rules if not any(part in rule for part in sentences)}
    assert not missing
