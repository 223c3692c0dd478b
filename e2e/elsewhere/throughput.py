"""``python -m e2e.elsewhere.throughput FOLDER ARTIFACT...``: how fast an engine serves each.

Measures vLLM's own Python API on the machine it runs on, with random weights in the shape of a
Llama of 8 billion parameters: speed does not depend on what the weights are. Each precision is
quantized as the artifact of that precision in the folder that `collect` wrote says; BF16 is the
source. Engines are loaded side by side and measured one at a time, on the same device in the same
run; what counts is the ratio to BF16.
"""

import argparse
import fcntl
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 2048,
}
PROMPT_TOKENS = 256
LOADS = {"one": (1, 128), "many": (64, 128)}
"""Requests at a time, and tokens of each answer."""
REPEATS = 3
CACHE_BYTES = 4 << 30
"""Room for what is asked at a time: 64 x 384 tokens of 128 KiB."""
OWN = "--one"
READY = "ready"
"""A file that says that an engine is loaded."""


def measure(folder: Path, lock: Path) -> None:
    """One engine, in a process of its own: prints tokens per second for each load, the best of
    some, as JSON."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]

    engine = LLM(
        str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=1024,
        max_num_seqs=64,
        # A fixed cache: engines that load beside this one would spoil what vLLM finds by itself.
        kv_cache_memory_bytes=CACHE_BYTES,
        gpu_memory_utilization=0.1,
        enable_prefix_caching=False,
        # Graphs of what is measured, and no compiler: it takes minutes and helps all alike.
        compilation_config={
            "mode": 0,
            "cudagraph_mode": "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": [1, 64],
        },
    )
    found = {}
    (folder / READY).touch()
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for name, (requests, tokens) in LOADS.items():
            prompts = [
                {"prompt_token_ids": [1000 + request + each for each in range(PROMPT_TOKENS)]}
                for request in range(requests)
            ]
            how = SamplingParams(
                max_tokens=tokens, ignore_eos=True, temperature=0, detokenize=False
            )
            best = 0.0
            for _ in range(REPEATS):
                start = time.perf_counter()
                engine.generate(prompts, how, use_tqdm=False)
                best = max(best, requests * tokens / (time.perf_counter() - start))
            found[name] = round(best, 1)
    print(f"\n{OWN}{json.dumps(found)}", flush=True)


def shaped(artifact: Path, folder: Path) -> None:
    """A checkpoint without weights: an artifact's quantization in the shape of the large model."""
    config: dict[str, Any] = json.loads((artifact / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **LLAMA_8B}))


def main(arguments: list[str] | None = None) -> int:
    """Measure each, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m e2e.elsewhere.throughput", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("artifacts", nargs="+", help="below artifacts/; source for BF16")
    parser.add_argument("--lock", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(OWN, action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one:
        measure(asked.folder, asked.lock)
        return 0
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        running = {}
        lock = Path(made, "lock")
        with lock.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for name in asked.artifacts:
                shape = Path(made, name)
                shape.mkdir()
                shaped(asked.folder / "artifacts" / name, shape)
                command = [sys.executable, "-m", "e2e.elsewhere.throughput", str(shape), name]
                with (asked.folder / f"throughput-{name}.log").open("w") as log:
                    running[name] = subprocess.Popen(
                        [*command, OWN, f"--lock={lock}"], stdout=log, stderr=log
                    )
            # Nobody measures while another one loads.
            while any(
                process.poll() is None and not Path(made, name, READY).exists()
                for name, process in running.items()
            ):
                time.sleep(0.2)
        for name, process in running.items():
            process.wait()
            for line in (asked.folder / f"throughput-{name}.log").read_text().splitlines():
                if line.startswith(OWN):
                    results[name] = json.loads(line.removeprefix(OWN))
    base = results.get("source")
    for name in asked.artifacts:
        if name not in results:
            print(f"{name}: failed, see throughput-{name}.log")
            continue
        ratios = (
            {load: round(v / base[load], 2) for load, v in results[name].items()} if base else ""
        )
        print(f"{name}: {results[name]} tokens/s, of BF16's: {ratios}", flush=True)
    (asked.folder / "throughput.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0 if len(results) == len(asked.artifacts) else 1


if __name__ == "__main__":
    sys.exit(main())
