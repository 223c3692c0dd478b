"""Olive's search: what it is asked, what is made of its answer, and what the real one chooses.

The real Olive is not in this environment: the last tests run where QUANTOP_OLIVE_PYTHON names an
interpreter that has it, as `make test-toolchains` does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from quantop_adapters import olive, olive_encoder, search, stage, workflow
from quantop_adapters.refusal import RefusedError

from tests.adapters.checkpoints import LLAMA, write_source

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "e2e" / "models"
PYTHON = os.environ.get("QUANTOP_OLIVE_PYTHON", "")
needs_olive = pytest.mark.skipif(not PYTHON, reason="QUANTOP_OLIVE_PYTHON is not set")
MODEL = {"type": "ONNXModel", "model_path": "input"}
FUSE, ROUND = {"type": "Fuse"}, {"type": "Round", "bits": 8}
FINE, STATIC = {**ROUND, "block": 32}, {"type": "OnnxStaticQuantization"}
PASSES: workflow.Passes = [FUSE, [ROUND, FINE, STATIC]]
FEEDS = [{"input_ids": [1, 2, 3]}, {"input_ids": [4]}]
MEASURES = search.Measures(
    figure="meanCosineSimilarity",
    best=1.0,
    loss=0.1,
    higher_is_better=True,
    latencies={"latencyMilliseconds": FEEDS[0], "otherMilliseconds": FEEDS[1]},
    baseline=True,
)


def figures(latency: float, similarity: float, size: int = 100) -> dict[str, float]:
    return {
        "latencyMilliseconds-p50": latency,
        "meanCosineSimilarity-accuracy_score": similarity,
        "sizeBytes-bytes": size,
    }


def model(parent: str | None, settings: Mapping[str, Any], folder: str, **more: Any) -> Any:
    type_ = str(settings.get("type")).lower()
    said = {"parent": parent, "type": type_, "settings": settings, "folder": folder}
    return {**said, "metrics": {}, "met": False, **more}


def found(chosen: str | None, **models: Any) -> dict[str, Any]:
    """As olive_run.py writes it: the source, and the same graph with operators fused."""
    source = model(None, {}, "/in", metrics=figures(9, 1))
    return {"chosen": chosen, "models": {"in": source, "f": model("in", FUSE, "/f"), **models}}


Say = Callable[..., None]


@pytest.fixture
def fake_olive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """A script in the place of Olive's runner, which leaves what it found, and maybe a graph."""
    script, scratch = tmp_path / "fake_olive", tmp_path / "artifact.scratch"
    (scratch / "output").mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(script))

    def say(said: Any, graph: bool = True) -> None:
        (tmp_path / "said.json").write_text(json.dumps(said))
        lines = ["#!/bin/sh", f"cp {tmp_path}/said.json {scratch}/found.json"]
        lines += [f"touch {scratch}/output/model.onnx"] * graph
        lines += ["echo 'INFO Step 2 with search point x'", "echo 'ValueError: it is wrong'"]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)

    return say


def task(work: Path, **more: str) -> stage.Task:
    return stage.Task.from_environment(
        {
            "WORK_DIR": str(work),
            "MODEL_NAME": "demo",
            "FORMAT": "ONNXEncoder",
            "PRECISION": "INT8",
            "OMP_NUM_THREADS": "3",
            **more,
        }
    )


def run(work: Path) -> Path:
    return search.run(task(work), MODEL, PASSES, FEEDS, MEASURES, stage.Progress("quantize"))


def candidates(work: Path) -> list[dict[str, Any]]:
    document = json.loads((work / "state" / "benchmark.json").read_text())
    assert (document["version"], document["threads"]) == (1, 3)
    listed: list[dict[str, Any]] = document["candidates"]
    return listed


GOOD = found(
    "a",
    a=model("f", {**ROUND, "block": 128}, "/a", metrics=figures(2.5, 0.99), met=True),
    b=model("f", FINE, "/b", metrics=figures(3, 0.995), met=True),
    c=model("f", STATIC, "/c"),
)


def test_olive_is_asked_for_the_fastest_that_keeps_the_goal(
    tmp_path: Path, fake_olive: Say
) -> None:
    fake_olive(GOOD)
    assert run(tmp_path) == tmp_path / "artifact.scratch" / "output"
    asked = json.loads((tmp_path / "artifact.scratch" / "workflow.json").read_text())
    assert asked["passes"]["pass0"] == [FUSE]
    assert asked["passes"]["pass1"] == [ROUND, FINE, {**STATIC, "data_config": "texts"}]
    assert asked["search_strategy"] == {"execution_order": "joint", "sampler": "sequential"}
    assert asked["evaluate_input_model"] is True
    metrics = asked["evaluators"][asked["evaluator"]]["metrics"]
    ranks = {
        (each["name"], part["name"]): part.get("priority", -1)
        for each in metrics
        for part in each["sub_types"]
    }
    assert ranks == {
        ("latencyMilliseconds", "p50"): 1,
        ("otherMilliseconds", "p50"): -1,
        ("meanCosineSimilarity", "accuracy_score"): 2,
        ("sizeBytes", "bytes"): -1,
    }
    assert metrics[-2]["sub_types"][0]["goal"] == {"type": "max-degradation", "value": 0.1}
    options = metrics[0]["user_config"]["inference_settings"]["onnx"]["session_options"]
    assert options == {"intra_op_num_threads": 3}
    read = {
        each["name"]: Path(each["load_dataset_config"]["params"]["file"]).read_text().splitlines()
        for each in asked["data_configs"]
    }
    assert {name: [json.loads(line) for line in lines] for name, lines in read.items()} == {
        "texts": FEEDS,
        "latencyMilliseconds": FEEDS[:1],
        "otherMilliseconds": FEEDS[1:],
    }


def test_what_was_measured_is_left_with_what_was_chosen(
    tmp_path: Path, fake_olive: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_olive(GOOD)
    (tmp_path / "artifact.scratch" / "refused.json").write_text('{"/c": "nothing is quantized"}')
    run(tmp_path)
    source, a, b, c = candidates(tmp_path)
    assert source["state"] == "Baseline"
    assert (a["name"], a["state"]) == ("Round", "Chosen")
    assert a["figures"] == {
        "latencyMilliseconds": 2.5,
        "meanCosineSimilarity": 0.99,
        "sizeBytes": 100,
    }
    assert json.loads(a["workflow"]) == {"passes": {"pass0": FUSE, "pass1": ROUND}}
    assert (b["name"], b["state"]) == ("Round block=32", "Passed")
    assert (c["name"], c["state"], c["figures"]) == ("OnnxStaticQuantization", "Failed", {})
    assert c["message"] == "nothing is quantized"
    assert '"candidate 2 of 3"' in capsys.readouterr().out


def test_a_pass_that_failed_is_told_once_with_no_workflow_of_what_it_never_came_to(
    tmp_path: Path, fake_olive: Say
) -> None:
    """What could have followed it was not tried."""
    passes: workflow.Passes = [[FUSE, {"type": "Fold"}], [ROUND, FINE]]
    said = found(
        "a",
        a=model("f", ROUND, "/a", metrics=figures(2, 0.99), met=True),
        g=model("in", {"type": "Fold"}, ""),
    )
    fake_olive(said)
    search.run(task(tmp_path), MODEL, passes, FEEDS, MEASURES, stage.Progress("quantize"))
    _, chosen, failed = candidates(tmp_path)
    assert (chosen["name"], chosen["state"]) == ("Fuse, Round", "Chosen")
    assert (failed["name"], failed["state"]) == ("Fold", "Failed")
    assert "workflow" not in failed


def test_a_search_whose_candidates_miss_the_goal_is_refused_with_the_best(
    tmp_path: Path, fake_olive: Say
) -> None:
    missed = found(
        None,
        a=model("f", ROUND, "/a", metrics=figures(2, 0.5)),
        b=model("f", FINE, "/b", metrics=figures(3, 0.7)),
    )
    fake_olive(missed, graph=False)
    with pytest.raises(RefusedError, match=r"best is Round block=32 with 0\.7") as refusal:
        run(tmp_path)
    assert refusal.value.reason == "SearchFailed"
    assert "none of the 2 candidates" in str(refusal.value)
    assert [each["state"] for each in candidates(tmp_path)[1:]] == ["Rejected", "Rejected"]


@pytest.mark.parametrize(
    ("said", "graph"),
    [
        (found(None, a=model("f", ROUND, ""), b=model("f", FINE, "")), True),
        (found(None), True),
        (GOOD, False),
    ],
    ids=["nothing could be made", "nothing was tried", "nothing was written"],
)
def test_olive_that_chose_or_wrote_nothing_has_failed_though_it_ends_with_0(
    tmp_path: Path, fake_olive: Say, said: Any, graph: bool
) -> None:
    fake_olive(said, graph)
    with pytest.raises(stage.ToolError, match="ended without an error, but a pass failed: ValueE"):
        run(tmp_path)


def test_a_token_is_timed_behind_what_was_kept_of_others(tmp_path: Path) -> None:
    source = write_source(
        tmp_path,
        LLAMA
        | {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_size": 32,
            "num_hidden_layers": 1,
        },
    )
    feed = olive.asked(source, [7], 9)
    assert feed["attention_mask"] == [1] * 10
    assert feed["position_ids"] == [9]
    assert feed["past_key_values.0.value"] == {"zeros": [2, 9, 8]}


TOOLCHAINS = (
    ("olive_encoder", "ONNXEncoder", "tiny-bert", olive_encoder.RECIPES),
    ("olive_encoder", "ONNXEncoder", "tiny-bert-classifier", olive_encoder.RECIPES),
    ("olive", "ONNX", "tiny-llama", olive.RECIPES),
)


@needs_olive
@pytest.mark.parametrize("precision", ["INT8", "INT4"])
@pytest.mark.parametrize(("module", "format_", "source", "recipes"), TOOLCHAINS)
def test_olive_makes_measures_and_chooses(
    tmp_path: Path,
    precision: str,
    module: str,
    format_: str,
    source: str,
    recipes: workflow.Recipes,
) -> None:
    classifies = source.endswith("classifier")
    said = stages(
        tmp_path,
        module,
        MODELS / source,
        FORMAT=format_,
        PRECISION=precision,
        METHOD=search.METHOD,
        BITS_PER_WEIGHT_MIN=precision.removeprefix("INT"),
        BITS_PER_WEIGHT_MAX="10.5" if precision == "INT8" else "6.9",
        CALIBRATION_FILE=str(MODELS / "calibration.txt"),
        CALIBRATION_SAMPLES="16",
        CALIBRATION_SEQUENCE_LENGTH="128",
        EVALUATION_FILE=str(MODELS / ("classification.jsonl" if classifies else "evaluation.txt")),
        EVALUATION_MAX_TOKENS="2048",
    )
    assert said["quantizedLayers"] == said["totalLayers"] or module == "olive"
    listed = candidates_of(tmp_path)
    (chosen,) = (each for each in listed if each["state"] == "Chosen")
    passed = [each for each in listed if each["state"] in ("Chosen", "Passed")]
    time = "tokenMilliseconds" if module == "olive" else "latencyMilliseconds"
    assert chosen["figures"][time] == min(each["figures"][time] for each in passed)
    keeps, figure = kept(precision, module, classifies)
    for each in listed:
        if each["state"] in ("Chosen", "Passed", "Rejected"):
            assert keeps(each["figures"][figure]) == (each["state"] != "Rejected"), each
    made = [each for each in listed if each["state"] not in ("Baseline", "Failed")]
    ways = [len(place) for place in workflow.places(recipes[precision][search.METHOD])]
    assert len(listed) - (module == "olive_encoder") == ways[0] * ways[1]
    assert len(made) >= len(listed) // 2
    assert len({each["name"] for each in listed}) == len(listed)
    size = sum(f.stat().st_size for f in (tmp_path / "artifact").glob("model.onnx*"))
    assert chosen["figures"]["sizeBytes"] == pytest.approx(size, rel=0.05)


def kept(precision: str, module: str, classifies: bool) -> tuple[Callable[[float], bool], str]:
    """Whether a figure keeps the goal, and the figure's name."""
    if module == "olive":
        most = olive.LOSSES[precision]
        return (lambda value: value <= most), "perplexityIncreasePercent"
    least = 1 - olive_encoder.LOSSES[precision]
    if classifies:
        return (lambda value: value >= 100 * least), "labelAgreementPercent"
    return (lambda value: value >= least), "meanCosineSimilarity"


def candidates_of(work: Path) -> Sequence[Any]:
    listed: Sequence[Any] = json.loads((work / "state" / "benchmark.json").read_text())[
        "candidates"
    ]
    return listed


@needs_olive
def test_the_workflow_of_a_candidate_makes_it_again(tmp_path: Path) -> None:
    given = {
        "FORMAT": "ONNXEncoder",
        "PRECISION": "INT4",
        "CALIBRATION_FILE": str(MODELS / "calibration.txt"),
        "CALIBRATION_SAMPLES": "4",
        "CALIBRATION_SEQUENCE_LENGTH": "64",
    }
    first, second = tmp_path / "first", tmp_path / "second"
    stages(first, "olive_encoder", MODELS / "tiny-bert", METHOD=search.METHOD, **given)
    (chosen,) = (each for each in candidates_of(first) if each["state"] == "Chosen")
    file = tmp_path / "workflow.json"
    file.write_text(chosen["workflow"])
    calibrates = any(
        each["type"] in workflow.CALIBRATED
        for each in json.loads(chosen["workflow"])["passes"].values()
    )
    if not calibrates:
        given.pop("CALIBRATION_FILE")
    stages(
        second,
        "olive_encoder",
        MODELS / "tiny-bert",
        METHOD=stage.WORKFLOW_METHOD,
        WORKFLOW_FILE=str(file),
        **given,
    )
    assert not (second / "state" / "benchmark.json").exists()
    for name in ("model.onnx", "model.onnx.data"):
        assert (first / "artifact" / name).read_bytes() == (second / "artifact" / name).read_bytes()


def stages(work: Path, module: str, source: Path, **variables: str) -> dict[str, Any]:
    """Run both stages where Olive is; what the last one said."""
    work.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "images" / "quantizers" / "olive"),
        "WORK_DIR": str(work),
        "SOURCE_DIR": str(source),
        "MODEL_NAME": "tiny",
        "TERMINATION_MESSAGE_PATH": str(work / "termination"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }
    for each in ("quantize", "evaluate"):
        done = subprocess.run(
            [PYTHON, "-m", f"quantop_adapters.{module}", each],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        assert not done.returncode, done.stdout[-4000:]
    said: dict[str, Any] = json.loads((work / "termination").read_text())
    return said
