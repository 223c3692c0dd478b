"""What llama.cpp's own tools make of a recipe.

They are in the quantizer's image and not in this environment: these tests run where
QUANTOP_TOOLCHAIN_PYTHON names an interpreter that has them, as `make test-toolchains` does.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("QUANTOP_TOOLCHAIN_PYTHON", "")
LISTING = """
import json, pathlib, sys
from quantop_adapters.gguf_convert import import_from_llama_cpp
reader = import_from_llama_cpp("gguf").GGUFReader
files = sorted(pathlib.Path(sys.argv[1]).glob("*.gguf"))
print(json.dumps({t.name: t.tensor_type.name for path in files for t in reader(path).tensors}))
"""

pytestmark = pytest.mark.skipif(not PYTHON, reason="QUANTOP_TOOLCHAIN_PYTHON is not set")


def adapter(work: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run Python where the toolchain is; its exit status and output."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "images" / "quantizers" / "core"),
        "WORK_DIR": str(work),
        "SOURCE_DIR": str(ROOT / "e2e" / "models" / "tiny-llama"),
        "MODEL_NAME": "tiny",
        "FORMAT": "GGUF",
        "PRECISION": "Q4_K_M",
        "BITS_PER_WEIGHT_MIN": "4.0",
        "BITS_PER_WEIGHT_MAX": "6.5",
        "TERMINATION_MESSAGE_PATH": str(work / "termination"),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    done = subprocess.run(
        [PYTHON, *arguments], env=environment, stdout=subprocess.PIPE, text=True, timeout=600
    )
    return done.returncode, done.stdout


def convert(
    work: Path, *overrides: tuple[str, str], module: str = "llama_cpp", **variables: str
) -> dict[str, Any]:
    """Run both stages, or one if that refuses; what the last one said."""
    told = json.dumps([{"tensors": name, "precision": precision} for name, precision in overrides])
    for stage in ("quantize", "evaluate"):
        status, _ = adapter(
            work, "-m", f"quantop_adapters.{module}", stage, OVERRIDES=told, **variables
        )
        if status:
            break
    said: dict[str, Any] = json.loads((work / "termination").read_text())
    assert status == (3 if "reason" in said else 0), said
    return said


def types(work: Path) -> dict[str, str]:
    """The types of an artifact's tensors, by their names."""
    _, text = adapter(work, "-c", LISTING, str(work / "artifact"))
    found: dict[str, str] = json.loads(text)
    return found


def test_overrides_give_tensors_their_types_and_leave_the_others(tmp_path: Path) -> None:
    plain, tailored = tmp_path / "plain", tmp_path / "tailored"
    for work in (plain, tailored):
        work.mkdir()
    convert(plain)
    overrides = [("^output[.]weight$", "Q8_0"), ("blk[.]0[.]attn_q", "F16"), ("attn_q", "Q5_K")]
    said = convert(tailored, *overrides)
    assert said["quantizedLayers"] == said["totalLayers"] - 1
    before, after = types(plain), types(tailored)
    changed = {name: its for name, its in after.items() if before[name] != its}
    assert changed == {
        "output.weight": "Q8_0",
        "blk.0.attn_q.weight": "F16",
        **{f"blk.{layer}.attn_q.weight": "Q5_K" for layer in (1, 2, 3)},
    }


@pytest.mark.parametrize(
    ("override", "said"),
    [(("mlp", "Q8_0"), "found in the name of no matrix"), (("norm", "F16"), "no matrix")],
)
def test_an_override_that_names_nothing_is_refused_before_the_work(
    tmp_path: Path, override: tuple[str, str], said: str
) -> None:
    refused = convert(tmp_path, override)
    assert (refused["stage"], refused["reason"]) == ("quantize", "OverrideNotFollowed")
    assert said in refused["message"]
    assert "blk.0.attn_k.weight" in refused["message"]


def test_no_file_is_larger_than_asked_and_all_are_one_model(tmp_path: Path) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    for work in (whole, split):
        work.mkdir()
    convert(whole)
    most = 1_500_000
    said = convert(split, MAX_FILE_BYTES=str(most))
    sizes = {path.name: path.stat().st_size for path in (split / "artifact").iterdir()}
    assert set(sizes) == {f"model-0000{part}-of-00003.gguf" for part in (1, 2, 3)}
    assert max(sizes.values()) <= most
    assert types(split) == types(whole)
    assert said["totalLayers"] == 29


def test_a_file_of_an_earlier_run_is_not_measured_for_another(tmp_path: Path) -> None:
    convert(tmp_path)
    artifact = tmp_path / "artifact"
    shutil.copy(artifact / "model.gguf", artifact / "model-00001-of-00001.gguf")
    (tmp_path / "state" / "quality.json").unlink()
    refused = convert(tmp_path)
    assert (refused["stage"], refused["reason"]) == ("evaluate", "ArtifactNotReadable")
    assert "in more than one file" in refused["message"]


def test_a_model_that_fits_stays_one_file(tmp_path: Path) -> None:
    convert(tmp_path, MAX_FILE_BYTES="3000000")
    assert [path.name for path in (tmp_path / "artifact").iterdir()] == ["model.gguf"]


def test_files_below_the_largest_tensor_are_refused(tmp_path: Path) -> None:
    refused = convert(tmp_path, PRECISION="F16", MAX_FILE_BYTES="1100000", BITS_PER_WEIGHT_MAX="17")
    assert refused["reason"] == "MaxFileSizeTooSmall"
    assert "with the largest one's it has to be 2,0" in refused["message"]
