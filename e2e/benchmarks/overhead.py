"""What the pipeline costs on top of its tools: the whole Job over the same by hand.

By hand is what a person types who has no operator: download the checkpoint, run the tool's own
commands, upload what they wrote, in a pod of the same images and limits, transfers by boto3. The
Job's few seconds of pods and containers are the same for any size, so checkpoints are large enough
for conversions of about a minute and more; what people convert is larger. The node has the images.
"""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from e2e.benchmarks import toolpod
from e2e.benchmarks.checkpoint import write_checkpoint
from e2e.benchmarks.figures import Figure
from e2e.kubectl import Kubectl, Object
from e2e.scenarios.conftest import push_unique
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import SOURCES_BUCKET, TEXTS_BUCKET, Store, push_checkpoint, text_uri

DONE = 'echo "by hand: $(date +%s.%N) - $began"'
CALIBRATION = {"uri": text_uri("calibration.txt"), "samples": 64, "sequenceLength": 256}
LLAMA_CPP = """
python - "$MODEL" --outfile /work/full.gguf <<'END'
import os, runpy, sys
folder = os.environ["LLAMA_CPP_PYTHON"]
sys.path.insert(0, folder)
from conversion.base import TextModel
# The script lists the tokenizers of well-known models; that of the test model is not in the list.
TextModel.get_vocab_base_pre = lambda *_: "gpt-2"
runpy.run_path(folder + "/convert_hf_to_gguf.py", run_name="__main__")
END
mkdir /work/out
llama-quantize /work/full.gguf /work/out/model.gguf Q4_K_M "$OMP_NUM_THREADS"
"""
LLM_COMPRESSOR = """
python - <<'END'
import os
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(os.environ["MODEL"], dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(os.environ["MODEL"])
ids = tokenizer(open("/work/source/calibration.txt").read()).input_ids
starts = range(0, 64 * 256, 256)
rows = [{"input_ids": ids[n : n + 256], "attention_mask": [1] * 256} for n in starts]
oneshot(
    model=model,
    recipe=[GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"])],
    dataset=Dataset.from_list(rows),
    num_calibration_samples=64,
    max_seq_length=256,
)
model.save_pretrained("/work/out", save_compressed=True)
tokenizer.save_pretrained("/work/out")
END
"""
ONNXRUNTIME_GENAI = """
python -m onnxruntime_genai.models.builder --input "$MODEL" --output /work/out \\
    --precision int4 --execution_provider cpu --cache_dir /work/cache \\
    --extra_options hf_token=false hf_remote=false
"""


@dataclass(frozen=True)
class Tool:
    """A recipe, the layers of the random checkpoint that it is measured on, and what a person
    would type in the same image."""

    format: str
    precision: str
    layers: int
    commands: str
    calibrated: bool = False


TOOLS = (
    Tool("GGUF", "Q4_K_M", 96, LLAMA_CPP),
    Tool("CompressedTensors", "W4A16", 24, LLM_COMPRESSOR, calibrated=True),
    Tool("ONNX", "INT4", 96, ONNXRUNTIME_GENAI),
)


def measure(kubectl: Kubectl, team: Team) -> list[Figure]:
    """Convert a random checkpoint both ways by each tool, one after the other."""
    _have_images(team)
    return [_measure(kubectl, team, tool) for tool in TOOLS]


def _have_images(team: Team) -> None:
    """Have the node pull the images, which is done once: by a conversion that nobody has made."""
    store = Store.from_environment()
    for tool in TOOLS:
        _convert(team, tool, "pulled", push_unique(store, "tiny-llama"))


def _convert(team: Team, tool: Tool, purpose: str, source: str) -> str:
    """The object whose artifact the operator has made by the tool."""
    name = team.apply(
        quantized_model(
            f"{purpose}-{tool.format.lower()}",
            (tool.format, tool.precision),
            source,
            serving=None,
            storage={"deletionPolicy": "Delete"},
            quantization={"calibration": CALIBRATION} if tool.calibrated else {},
        )
    )
    team.ready(name, timeout=3600)
    return name


def _measure(kubectl: Kubectl, team: Team, tool: Tool) -> Figure:
    store = Store.from_environment()
    prefix = f"benchmarks/random-llama-{tool.layers}"
    with tempfile.TemporaryDirectory() as folder:
        size = write_checkpoint(Path(folder), tool.layers)
        push_checkpoint(store.client(), Path(folder), SOURCES_BUCKET, prefix)
    name = _convert(team, tool, "overhead", f"s3://{SOURCES_BUCKET}/{prefix}")
    # The object knows of the published artifact before the Job controller has closed the Job.
    job = until("the Job is complete", lambda: _completed(team, name), timeout=60)
    (pod,) = team.pods(name, "convert")
    whole = _seconds(job["status"]["startTime"], job["status"]["completionTime"])
    stages = {
        container["name"]: _seconds(ended["startedAt"], ended["finishedAt"])
        for container in [
            *pod["status"]["initContainerStatuses"],
            *pod["status"]["containerStatuses"],
        ]
        for ended in [container["state"]["terminated"]]
    }
    ran, raw = _by_hand(kubectl, pod, store, prefix, tool)
    by_hand = ran.download + raw + ran.upload
    _forget(store, f"{prefix}/", toolpod.UPLOADED)
    shown = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in stages.items())
    return Figure(
        f"pipeline overhead, {tool.format} {tool.precision} of {size / 1e9:.1f} GB",
        f"{whole / by_hand:.2f}",
        "1.1",
        f"whole Job {whole:.0f} s ({shown}); by hand {by_hand:.1f} s (download "
        f"{ran.download:.1f}, tools {raw:.1f}, upload {ran.upload:.1f}); to the tools alone: the "
        f"whole Job {whole / raw:.2f}, its quantize stage {stages['quantize'] / raw:.2f}",
    )


def _completed(team: Team, name: str) -> Object | None:
    (job,) = team.jobs(name, "convert")
    return job if "completionTime" in job["status"] else None


def _by_hand(
    kubectl: Kubectl, job_pod: Object, store: Store, prefix: str, tool: Tool
) -> tuple[toolpod.Ran, float]:
    """A plain pod of the same images and limits, and the seconds that the tools' own commands
    took in it."""
    wanted = toolpod.ToolPod(
        f"by-hand-{tool.format.lower()}",
        f"began=$(date +%s.%N)\n{tool.commands}\n{DONE}",
        ((SOURCES_BUCKET, f"{prefix}/"), (TEXTS_BUCKET, "calibration.txt")),
        files={},
        environment={"MODEL": f"{toolpod.SOURCE_DIR}/{prefix}"},
    )
    ran = toolpod.run(kubectl, job_pod, store, wanted, timeout=3600)
    (line,) = (line for line in ran.log.splitlines() if line.startswith("by hand: "))
    finished, began = line.removeprefix("by hand: ").split(" - ")
    return ran, float(finished) - float(began)


def _forget(store: Store, *prefixes: str) -> None:
    """Take the checkpoint and what was made of it by hand out of the store: they are gigabytes."""
    s3 = store.client()
    for prefix in prefixes:
        for each in s3.list_objects_v2(Bucket=SOURCES_BUCKET, Prefix=prefix).get("Contents", []):
            s3.delete_object(Bucket=SOURCES_BUCKET, Key=each["Key"])


def _seconds(began: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
