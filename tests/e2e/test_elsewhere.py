"""The check of engines that need other hardware: what it demands, and of what."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from quantop.api.modelruntime import ModelRuntimeSpec

from e2e.conformance.rows import GPU_RUNTIME, rows
from e2e.elsewhere import seen, serve, throughput
from e2e.elsewhere.collect import OPTIONS_ON, cases, described

FAKE = Path(__file__).with_name("fake_engine.py")
SCORED = 12
RUNTIME = ModelRuntimeSpec.model_validate(yaml.safe_load(GPU_RUNTIME.read_text())["spec"])
STATUS: dict[str, Any] = {
    "artifact": {
        "key": "0" * 64,
        "uri": "s3://artifacts/0",
        "format": "CompressedTensors",
        "precision": "FP8_DYNAMIC",
        "method": "RTN",
        "manifestDigest": "0" * 64,
        "sizeBytes": 1,
        "sourceSizeBytes": 2,
        "quantizer": "llm-compressor",
        "quantizerImage": "example.com/quantizer@sha256:0",
    },
    "quality": {"perplexity": "2.72", "baselinePerplexity": "2.71"},
}


def folder_of(tmp_path: Path, fault: str, **quality: str) -> Path:
    """A folder as `collect` writes it, with one case of the fake engine."""
    source = tmp_path / "artifacts" / "source"
    source.mkdir(parents=True)
    (source / "config.json").write_text('{"bos_token_id": 1}')
    (tmp_path / "evaluation.txt").write_text("a text of fifteen bytes or more")
    command = [sys.executable, str(FAKE), "$(PORT)", "$(MODEL_NAME)", fault]
    case = {
        "row": "llm-compressor/FP8_DYNAMIC/RTN",
        "engine": {},
        "folders": {"/models/current": "artifact"},
        "command": command,
        "environment": {"MODEL_NAME": "case", "PORT": "8000"},
        "evaluation": {"maxTokens": 16, "sequenceLength": 4},
        "quality": {
            "tokens": SCORED,
            "perplexity": f"{math.e:.3f}",
            "baselinePerplexity": f"{math.e:.3f}",
            **quality,
        },
    }
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "case.json").write_text(json.dumps(case))
    return tmp_path


def told(folder: Path) -> dict[str, Any]:
    """What was written of the one case."""
    found: dict[str, Any] = json.loads((folder / "seen.json").read_text())["cases"]["case"]
    return found


def test_an_engine_that_does_all_is_seen_with_its_perplexity(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "none")
    assert serve.main([str(folder)]) == 0
    assert told(folder)["perplexity"] == "2.718"
    assert told(folder)["answer"] == "answer"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("worse", "perplexity 7.389, measured 2.718"),
        ("moody", "it answers ['answer 0', 'answer 1']"),
        ("cut", "SIGTERM cut its answer"),
        ("dumb", "its metrics lack ['vllm:num_requests_running', 'vllm:num_requests_waiting']"),
        ("broken", "it ended with status 1: \nValueError: no kernel for it"),
    ],
)
def test_what_an_engine_does_wrong_is_told(tmp_path: Path, fault: str, reason: str) -> None:
    folder = folder_of(tmp_path, fault)
    assert serve.main([str(folder)]) == 1
    assert reason in told(folder)["failed"]
    assert "perplexity" not in told(folder)


@pytest.mark.parametrize(
    ("measured", "source", "passes"),
    [
        ("2.80", "2.70", True),  # computed in more bits than it was measured in
        ("2.71", "2.70", True),  # rounded otherwise
        ("2.70", "2.69", False),
        ("2.90", "2.80", False),  # no quantized model is better than its source
    ],
)
def test_an_engine_may_be_better_than_measured_but_not_than_the_source(
    tmp_path: Path, measured: str, source: str, passes: bool
) -> None:
    folder = folder_of(tmp_path, "none", perplexity=measured, baselinePerplexity=source)
    assert serve.main([str(folder)]) == (0 if passes else 1)


def test_what_was_seen_before_is_kept(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "none")
    (folder / "seen.json").write_text('{"cases": {"before": {}}}')
    serve.main([str(folder)])
    assert sorted(json.loads((folder / "seen.json").read_text())["cases"]) == ["before", "case"]


def test_every_precision_and_every_value_of_an_option_is_a_case() -> None:
    found = list(cases(RUNTIME))
    assert len({case.name for case in found}) == len(found)
    made = {(case.row.quantizer, case.row.precision) for case in found}
    assert made == {
        (row.quantizer, row.precision)
        for row in rows()
        if row.format in ("CompressedTensors", "GPTQ", "AWQ")
    }
    values = [pair for case in found for pair in case.engine.items()]
    for option in RUNTIME.options:
        for value in option.values:
            assert (option.name.value, value.value) in values


def test_a_case_is_the_container_that_the_operator_makes() -> None:
    case = next(each for each in cases(RUNTIME) if each.name == "draft-model")
    assert (case.row.quantizer, case.row.precision) == OPTIONS_ON
    found = described(case, STATUS, RUNTIME)
    assert found["command"][:3] == ["vllm", "serve", "$(MODEL_DIR)"]
    assert '"model": "$(DRAFT_MODEL_DIR)"' in found["command"][-1]
    assert found["folders"] == {
        "/models/current": case.row.name,
        "/models/draft": "llm-compressor-w4a16-rtn",
    }
    assert found["environment"]["QUANTOP_PRECISION"] == "FP8_DYNAMIC"


def test_the_example_offers_what_was_served_and_nothing_that_was_refused() -> None:
    """Each format's precisions that the chart makes are those that the engine served."""
    offered = {
        (each.format, precision) for each in RUNTIME.formats for precision in each.precisions
    }
    formats = {row.quantizer: row.format for row in rows()}
    served = {(formats[quantizer], precision) for quantizer, precision in seen.load().served}
    assert served == offered
    cases_seen = json.loads(seen.FILE.read_text())["cases"]
    for option in RUNTIME.options:
        for value in option.values:
            name = f"{option.name}-{value.value}".lower().replace("_", "-")
            assert "failed" not in cases_seen[name], f"{option.name}: {value.value}"


def test_speed_is_told_as_a_ratio_and_an_engine_that_fails_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE.with_name("fake_vllm")))
    for name, seconds in {"source": 0.5, "quick": 0.01, "bad": "broken"}.items():
        folder = tmp_path / "artifacts" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"quantization_config": seconds}))
    assert throughput.main([str(tmp_path), "source", "quick", "bad"]) == 1
    told = capsys.readouterr().out
    assert "bad: failed, see throughput-bad.log" in told
    assert "no kernel for it" in (tmp_path / "throughput-bad.log").read_text()
    found = json.loads((tmp_path / "throughput.json").read_text())
    assert found["quick"]["many"] > found["source"]["many"]
