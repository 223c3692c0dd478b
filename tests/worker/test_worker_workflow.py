"""Workflows out of the store: as if they stood in the spec, and refused before anything is made."""

import json
from hashlib import sha256

import pytest
from quantop import workflows
from quantop.contract import WorkflowRef
from quantop_worker.errors import RefusedError

from tests.worker.harness import PASSES, RECIPE, Bench, calibration, workflow

FILES = {"model.onnx": b"weights"}
EXPORT = {"passes": {"p": {"type": "Export", "precision": "fp32"}}}
TEXT = json.dumps(EXPORT, indent=2)
"""Not as toolchains are told it."""


def stored(bench: Bench, text: str | bytes = TEXT) -> Bench:
    """With a workflow in the store in place of a method."""
    bench.put("texts/workflow.json", text if isinstance(text, bytes) else text.encode())
    recipe = RECIPE.model_copy(update={"method": "Workflow"})
    return bench.with_task(recipe=recipe, workflow=at(bench))


def at(bench: Bench) -> WorkflowRef:
    return workflow(f"s3://{bench.bucket}/texts/workflow.json")


def told() -> str:
    return workflows.read(TEXT, "workflow", "olive", PASSES).text


def refusal(bench: Bench) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        bench.resolve()
    assert bench.objects("models/") == []
    return refused.value


def test_it_has_the_key_of_the_same_in_the_spec(bench: Bench) -> None:
    plain = bench.resolve().key
    inline = RECIPE.model_copy(update={"method": "Workflow", "workflow": told()})
    key = stored(bench).resolve().key
    assert key == bench.with_task(recipe=inline).resolve().key
    assert key != plain
    assert stored(bench, TEXT.replace("fp32", "fp16")).resolve().key != key


def test_it_reaches_the_toolchain_and_stands_in_what_is_published(bench: Bench) -> None:
    bench = stored(bench).resolved()
    bench.convert(FILES)
    assert (bench.work / "inputs" / "workflow").read_text() == told()
    published = bench.artifact().read()
    assert published
    assert published.manifest.recipe.workflow == told()
    provenance = bench.artifact().object_key(published.manifest.provenance.object)
    content = bench.artifact().bucket.get(provenance, 1 << 20)
    assert content
    definition = json.loads(content)["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["recipe"]["workflow"] == told()
    uri = f"s3://{bench.bucket}/texts/workflow.json"
    (digest,) = (m["digest"] for m in definition["resolvedDependencies"] if m["uri"] == uri)
    assert digest["sha256"] == sha256(TEXT.encode()).hexdigest()


def test_one_on_a_claim_is_read(bench: Bench) -> None:
    file = bench.folder / "pvc" / "recipes" / "workflow.json"
    file.parent.mkdir(parents=True)
    file.write_text(TEXT)
    given = stored(bench).resolve().key
    claimed = stored(bench).with_task(workflow=workflow("pvc://recipes/workflow.json"))
    assert claimed.resolve().key == given


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ('{"passes": {"p": {"type": "Fetch"}}}', '.passes.p.type is "Fetch", which Quantizer'),
        (
            '{"passes": {"p": {"type": "Export", "user_script": "x.py"}}}',
            ".passes.p.user_script is \"x.py\", which Quantizer 'llama-cpp' does not let Export "
            "have; possible: precision.",
        ),
        ('{"passes": {}, "systems": {}}', ".systems is {}, but only passes may be given"),
    ],
)
def test_what_the_quantizer_does_not_list_is_refused_by_resolve(
    bench: Bench, text: str, said: str
) -> None:
    refused = refusal(stored(bench, text))
    assert refused.reason == "WorkflowNotSupported"
    where = f"spec.quantization.workflowFrom (s3://{bench.bucket}/texts/workflow.json)"
    assert refused.message.startswith(where)
    assert said in refused.message


def test_what_is_not_there_too_large_or_no_text_is_refused_by_resolve(bench: Bench) -> None:
    asked = stored(bench, " " * (64 << 10) + TEXT)
    refused = refusal(asked)
    assert refused.reason == "InvalidSource"
    assert "it may have 1 to 65536" in refused.message
    refused = refusal(stored(bench, b"\xff" + TEXT.encode()))
    assert refused.reason == "InvalidSource"
    assert "no UTF-8 text" in refused.message
    elsewhere = workflow(f"s3://{bench.bucket}/texts/none.json")
    refused = refusal(asked.with_task(workflow=elsewhere))
    assert refused.reason == "WorkflowNotFound"
    assert refused.message.startswith("spec.quantization.workflowFrom.uri is s3://")


def test_text_that_a_pass_needs_or_none_uses_is_refused_by_resolve(bench: Bench) -> None:
    bench.put("texts/calibration.txt", b"calibrate on this")
    text = calibration(f"s3://{bench.bucket}/texts/calibration.txt")
    calibrating = stored(bench, '{"passes": {"p": {"type": "Calibrate"}}}')
    assert refusal(calibrating).reason == "CalibrationRequired"
    assert calibrating.with_task(calibration=text).resolve().key
    assert refusal(stored(bench).with_task(calibration=text)).reason == "CalibrationIgnored"


def test_one_that_changed_since_it_was_resolved_is_refused(bench: Bench) -> None:
    resolved = stored(bench).resolved()
    stored(bench, TEXT.replace("fp32", "fp16"))
    with pytest.raises(RefusedError, match="changed since it was resolved") as refused:
        resolved.fetch()
    assert refused.value.reason == "SourceChanged"


def test_calibration_text_that_changed_since_it_was_resolved_is_refused(bench: Bench) -> None:
    """Else the artifact would lie under another text's key."""
    bench.put("texts/calibration.txt", b"calibrate on this")
    text = calibration(f"s3://{bench.bucket}/texts/calibration.txt")
    resolved = bench.with_task(calibration=text).resolved()
    bench.put("texts/calibration.txt", b"calibrate on that, please")
    with pytest.raises(RefusedError, match="changed since it was resolved") as refused:
        resolved.fetch()
    assert refused.value.reason == "SourceChanged"
