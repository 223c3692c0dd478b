"""Workflows: what a Quantizer does not list is refused before it runs, with where it is."""

import json
from typing import Any
from unittest.mock import Mock

import pytest
from quantop import workflows
from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import QuantizedModelSpec, QuantizedModelStatus
from quantop.api.quantizer import QuantizerSpec
from quantop.contract import ConversionTask, artifact_key
from quantop.reasons import Reason
from quantop.reconcile import artifact, choices
from quantop.reconcile.snapshot import Problem, Snapshot
from quantop.settings import Settings

from tests.operator import objects

STORE = ModelStoreSpec.model_validate(objects.store()["spec"])
PASSES = [
    {"type": "Export", "settings": ["precision"]},
    {"type": "Quantize", "settings": ["bits", "nodes_to_exclude"]},
    {"type": "Calibrate", "settings": [], "calibration": "Required"},
    {"type": "Tune", "settings": [], "calibration": "Optional"},
]
EXPORT = {"type": "Export", "precision": "fp32"}
QUANTIZE = {"type": "Quantize", "bits": 4, "nodes_to_exclude": ["/lm_head/MatMul", "a$(HOME)"]}
CALIBRATION = {"uri": "s3://texts/calibration.txt"}


def of(*passes: object, **more: object) -> str:
    return json.dumps({"passes": {f"p{i}": each for i, each in enumerate(passes)}, **more})


def snapshot(text: str | None, passes: list[dict[str, Any]] = PASSES, **recipe: Any) -> Snapshot:
    quantization = {"format": "GGUF", "precision": "Q4_K_M", **recipe}
    if text is not None:
        quantization["workflow"] = text
    model = objects.model("team-a", quantization=quantization)
    quantizer = objects.quantizer(passes=passes)
    return Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        quantizers={"olive": QuantizerSpec.model_validate(quantizer["spec"])},
    )


def refusal(*args: Any, **recipe: Any) -> Problem:
    problem = choices.choose_quantizer(snapshot(*args, **recipe))
    assert isinstance(problem, Problem), problem
    return problem


def task(text: str | None, **recipe: Any) -> ConversionTask:
    given = snapshot(text, **recipe)
    chosen = choices.choose_quantizer(given)
    assert isinstance(chosen, choices.ChosenQuantizer), chosen
    return artifact.conversion_task(given, STORE, chosen)


FIELD = "spec.quantization.workflow"
RUNS = "which Quantizer 'olive' does not run; possible: Calibrate, Export, Quantize, Tune."
HAS = "which Quantizer 'olive' does not let Quantize have; possible: bits, nodes_to_exclude."
PLAIN = "it must be a number, a text, true, false, null, or a list of these."
OPERATORS = "but only passes may be given: the model, the folders and the machine are the operator"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", f"{FIELD} is no JSON (Expecting property name"),
        ('{"passes": NaN}', f"{FIELD} is no JSON (NaN is no number of JSON's): write"),
        ("[" * 8000, f"{FIELD} is no JSON ("),
        ('{"passes": {"p": {}, "p": {}}}', f"{FIELD} is no JSON (p is there twice)"),
        ('"passes"', f'{FIELD} has no passes: write {{"passes"'),
        ('{"passes": []}', f"{FIELD} has no passes"),
        (of(), f"{FIELD}.passes has 0: give 1 to 16."),
        (of(*[EXPORT] * 17), f"{FIELD}.passes has 17: give 1 to 16."),
        *(
            (of(EXPORT, **{key: "/etc"}), f'{FIELD}.{key} is "/etc", {OPERATORS}')
            for key in (
                *("input_model", "systems", "host", "target", "data_configs", "evaluators"),
                *("engine", "output_dir", "cache_dir", "packaging_config", "workflow_id"),
            )
        ),
        (
            of([EXPORT]),
            f'{FIELD}.passes.p0 is [{{"type": "Export", "precision": "fp32"}}]: it must',
        ),
        (of({"bits": 4}), f"{FIELD}.passes.p0.type is null, {RUNS}"),
        (of({"type": ["Export"]}), f'{FIELD}.passes.p0.type is ["Export"], {RUNS}'),
        (of(EXPORT, {"type": "quantize"}), f'{FIELD}.passes.p1.type is "quantize", {RUNS}'),
        *(
            (of(EXPORT, QUANTIZE | {key: "x"}), f'{FIELD}.passes.p1.{key} is "x", {HAS}')
            for key in (
                *("user_script", "script_dir", "data_config", "external_data_name", "host"),
                *("evaluator", "config", "extra_options", "model_path"),
            )
        ),
        (
            of({"type": "Calibrate", "bits": 4}),
            f"{FIELD}.passes.p0.bits is 4, which Quantizer 'olive' does not let Calibrate have; "
            "possible: no setting.",
        ),
        (
            of({"type": "Quantize", "bits": {"user_script": "x.py"}}),
            f'{FIELD}.passes.p0.bits is {{"user_script": "x.py"}}: {PLAIN}',
        ),
        (
            of({"type": "Quantize", "nodes_to_exclude": [["a"]]}),
            f'{FIELD}.passes.p0.nodes_to_exclude is [["a"]]: {PLAIN}',
        ),
    ],
)
def test_what_is_not_listed_is_refused_with_its_place_what_was_found_and_what_is_possible(
    text: str, said: str
) -> None:
    problem = refusal(text)
    assert problem.reason == Reason.WORKFLOW_NOT_SUPPORTED
    assert said in problem.message


def test_long_values_are_cut_in_messages() -> None:
    assert len(refusal(of({"type": "a" * 7000})).message) < 400


def test_a_quantizer_that_lists_no_passes_runs_no_workflows() -> None:
    problem = refusal(of(EXPORT), [])
    assert problem.reason == Reason.WORKFLOW_NOT_SUPPORTED
    assert "is set, but Quantizer 'olive' runs no workflows: remove it, or name" in problem.message


def test_a_pass_that_needs_text_is_refused_without_and_one_that_has_no_use_for_it_with() -> None:
    """The most that one of them needs counts."""
    tune, calibrate = {"type": "Tune"}, {"type": "Calibrate"}
    missing = refusal(of(EXPORT, calibrate, tune))
    assert missing.reason == Reason.CALIBRATION_REQUIRED
    assert "Q4_K_M by Workflow needs calibration text" in missing.message
    ignored = refusal(of(EXPORT, QUANTIZE), calibration=CALIBRATION)
    assert ignored.reason == Reason.CALIBRATION_IGNORED
    assert task(of(EXPORT, calibrate), calibration=CALIBRATION).calibration
    assert task(of(EXPORT, tune), calibration=CALIBRATION).calibration
    assert task(of(EXPORT, tune)).calibration is None


def test_it_reaches_the_toolchain_in_its_order_and_with_nothing_that_kubernetes_would_expand() -> (
    None
):
    recipe = task(of(QUANTIZE, EXPORT)).recipe
    assert recipe.method == "Workflow"
    assert recipe.workflow
    assert "$" not in recipe.workflow
    told = json.loads(recipe.workflow)["passes"]
    assert list(told.items()) == [("p0", QUANTIZE), ("p1", EXPORT)]


def test_its_content_decides_the_key_and_its_spacing_does_not() -> None:
    def key(text: str) -> str:
        return artifact_key("s3:1", task(text).recipe, None, None)

    plain = of(EXPORT, QUANTIZE)
    spaced = json.dumps(json.loads(plain), indent=4)
    backwards = of(dict(reversed(EXPORT.items())), QUANTIZE)
    assert key(spaced) == key(backwards) == key(plain)
    assert key(of(QUANTIZE, EXPORT)) != key(plain)
    assert key(of(EXPORT, QUANTIZE | {"bits": 8})) != key(plain)


STORED = {"uri": "s3://texts/workflow.json"}


def test_one_in_the_store_is_read_by_resolve_which_is_told_what_it_may_have() -> None:
    asked = task(None, workflowFrom=STORED)
    assert asked.recipe.method == "Workflow"
    assert asked.recipe.workflow is None
    assert asked.workflow
    assert asked.workflow.uri == STORED["uri"]
    allowed = {each.type: (list(each.settings), each.calibration) for each in asked.workflow.passes}
    assert allowed == {
        each["type"]: (each["settings"], each.get("calibration", "Ignored")) for each in PASSES
    }


def test_what_one_in_the_store_does_with_text_is_not_known_beforehand() -> None:
    assert task(None, workflowFrom=STORED, calibration=CALIBRATION).calibration
    assert task(None, workflowFrom=STORED).calibration is None


def test_one_in_the_store_is_refused_where_the_quantizer_runs_none() -> None:
    problem = refusal(None, [], workflowFrom=STORED)
    assert problem.reason == Reason.WORKFLOW_NOT_SUPPORTED
    assert "spec.quantization.workflowFrom is set, but Quantizer 'olive'" in problem.message


def test_other_passes_of_the_quantizer_have_one_in_the_store_looked_at_again() -> None:
    """What was refused may be allowed by now."""
    hashes = set()
    for passes in (PASSES, PASSES[:2]):
        given = snapshot(None, passes, workflowFrom=STORED)
        chosen = choices.choose_quantizer(given)
        assert isinstance(chosen, choices.ChosenQuantizer)
        asked = artifact.conversion_task(given, STORE, chosen)
        hashes.add(artifact.inputs_hash(given, asked))
    assert len(hashes) == 2


def test_a_workflow_is_parsed_once_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Mock(wraps=workflows.read)
    monkeypatch.setattr(workflows, "read", parse)
    task(of(EXPORT))
    parse.assert_called_once()
