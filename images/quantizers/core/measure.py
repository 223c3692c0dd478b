"""Convert checkpoints by every adapter at every precision, and print what came of it as a table.

    python images/quantizers/core/measure.py --models e2e/models [--work DIR] [--only
    llama_cpp:Q4_K_M ...]

Runs wherever the toolchains are, for example in a virtual environment of requirements.txt and
torch. OpenVINO's has an environment of its own: `--only openvino` there. PYTHONPATH must hold this
folder and OpenVINO's beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from quantop_adapters import byhand, llm_compressor, mlx, onnxruntime_genai, openvino
from quantop_adapters.stage import Calibration, Evaluation

# Toolchain, format, precision, method, whether it is given the calibration text.
RECIPES = (
    *(
        ("llama_cpp", "GGUF", precision, "", False)
        for precision in (
            *("Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_S", "Q4_1", "IQ4_NL", "IQ4_XS"),
            *("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S"),
        )
    ),
    *(
        ("llama_cpp", "GGUF", precision, "", True)
        for precision in (
            *("IQ3_XS", "IQ3_XXS", "Q2_K_S", "IQ2_M", "IQ2_S"),
            *("IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
        )
    ),
    ("llama_cpp", "GGUF", "F16", "", False),
    ("llama_cpp", "GGUF", "Q8_0", "", False),
    ("llama_cpp", "GGUF", "Q5_K_S", "", False),
    ("llama_cpp", "GGUF", "Q4_K_M", "", False),
    ("llama_cpp", "GGUF", "Q4_K_M", "", True),
    ("llama_cpp", "GGUF", "Q4_0", "", False),
    ("llama_cpp", "GGUF", "Q2_K", "", False),
    ("llama_cpp", "GGUF", "Q2_K", "", True),
    *(
        ("llm_compressor", "CompressedTensors", precision, method, needs_text)
        for precision, methods in llm_compressor.METHODS.items()
        for method, needs_text in methods.items()
    ),
    *(("mlx", "MLX", precision, "", False) for precision in mlx.RECIPES),
    *(
        ("onnxruntime_genai", "ONNX", precision, method, False)
        for precision in onnxruntime_genai.OnnxruntimeGenai.precisions
        for method in onnxruntime_genai.METHODS[precision]
    ),
    *(
        ("openvino", "OpenVINO", precision, method, needs_text)
        for precision, methods in openvino.METHODS.items()
        for method, needs_text in methods.items()
    ),
)


def convert(models: Path, model: str, recipe: tuple[str, str, str, str, bool], work: Path) -> str:
    """Run both stages as the operator does; one line of the table."""
    toolchain, kind, precision, method, calibrated = recipe
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    task = byhand.task_below(
        work,
        models / model,
        (kind, precision, method),
        calibration=Calibration(models / "calibration.txt", 64, 256) if calibrated else None,
        evaluation=Evaluation(models / "evaluation.txt", 256, 20_000),
    )
    seconds = []
    for stage in ("quantize", "evaluate"):
        start = time.monotonic()
        status, said = byhand.run(toolchain, stage, task)
        if status:
            return f"{model:11} {kind:17} {precision:11} {stage} failed with {status}: {said}"
        seconds.append(time.monotonic() - start)
    quality = json.loads((work / "state" / "quality.json").read_text())
    size = sum(path.stat().st_size for path in (work / "artifact").rglob("*") if path.is_file())
    return (
        f"{model:11} {kind:17} {precision:11} {method or ('calibrated' if calibrated else ''):16}"
        f"{size:>11,} {quality['bitsPerWeight']:>8.3f} {quality['quantizedBitsPerWeight']:>9.3f} "
        f"{quality['quantizedLayers']:>4}/{quality['totalLayers']:<4}"
        f"{quality['baselinePerplexity']:>9.3f} {quality['perplexity']:>9.3f} "
        f"{seconds[0]:>6.0f} {seconds[1]:>6.0f}"
    )


def main() -> int:
    """Print the table; the exit status is 1 when a stage failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("e2e/models"))
    parser.add_argument("--work", type=Path, help="keep the artifacts below this folder")
    parser.add_argument("--only", nargs="*", default=[], metavar="TOOLCHAIN[:PRECISION]")
    parser.add_argument("--model", nargs="*", default=["tiny-llama", "tiny-phi3"])
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="measure-"))
    print(
        f"{'model':11} {'format':17} {'precision':11} {'method':16}{'bytes':>11} {'bits/w':>8} "
        f"{'in layers':>9} {'layers':>9}{'ppl src':>9} {'ppl':>9} {'quant s':>7} {'eval s':>6}"
    )
    failed = False
    for model in options.model:
        for recipe in RECIPES:
            if options.only and not {recipe[0], f"{recipe[0]}:{recipe[2]}"} & set(options.only):
                continue
            name = f"{model}-{recipe[0]}-{recipe[2]}-{recipe[3] or int(recipe[4])}"
            line = convert(options.models.resolve(), model, recipe, work / name)
            failed |= " failed with " in line
            print(line, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
