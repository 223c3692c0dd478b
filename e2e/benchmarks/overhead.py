"""What the pipeline costs on top of its tools: the whole Job over the same by hand.

By hand is what a person has who has no operator: a Job of the same images and limits which
downloads the checkpoint, runs the tool's own commands and uploads what they wrote, transfers by
boto3. The bare seconds of its three steps are what the same would take without any pod. The node
has the images. Each tool has a small and a large checkpoint: pods and containers take the same few
seconds for any size, so two points tell them from what grows with the checkpoint.
"""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from e2e.benchmarks import tooljob
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
    """A recipe, the layers of the larger random checkpoint that it is measured on, and what a
    person would type in the same image."""

    format: str
    precision: str
    layers: int
    commands: str
    calibrated: bool = False


TOOLS = (
    Tool("GGUF", "Q4_K_M", 96, LLAMA_CPP),
    Tool("CompressedTensors", "W4A16", 12, LLM_COMPRESSOR, calibrated=True),
    Tool("ONNX", "INT4", 96, ONNXRUNTIME_GENAI),
)


SMALLER = 6
"""The smaller checkpoint has this part of the layers."""
GOAL = "1.1"
"""Ratios, at most."""


@dataclass(frozen=True)
class Both:
    """One checkpoint converted both ways, in seconds. ``size`` is that of the weights, in bytes;
    ``tools`` what the commands took by hand."""

    size: int
    stages: dict[str, float]
    whole: float
    by_hand: tooljob.Ran
    tools: float

    @property
    def steps(self) -> float:
        """By hand, without the pod around the steps."""
        return self.by_hand.download + self.tools + self.by_hand.upload


def measure(kubectl: Kubectl, team: Team) -> list[Figure]:
    """Convert random checkpoints both ways by each tool, one after the other."""
    _have_images(team)
    figures = []
    for tool in TOOLS:
        small, large = (
            _measure(kubectl, team, tool, layers)
            for layers in (tool.layers // SMALLER, tool.layers)
        )
        figures += [_ratio(tool, small), _ratio(tool, large), _growth(tool, small, large)]
    return figures


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


def _measure(kubectl: Kubectl, team: Team, tool: Tool, layers: int) -> Both:
    store = Store.from_environment()
    prefix = f"benchmarks/random-llama-{layers}"
    with tempfile.TemporaryDirectory() as folder:
        size = write_checkpoint(Path(folder), layers)
        push_checkpoint(store.client(), Path(folder), SOURCES_BUCKET, prefix)
    name = _convert(team, tool, f"overhead-{layers}", f"s3://{SOURCES_BUCKET}/{prefix}")
    # The object knows of the published artifact before the Job controller has closed the Job.
    job = until("the Job is complete", lambda: _completed(team, name), timeout=60)
    (pod,) = team.pods(name, "convert")
    stages = {
        container["name"]: _seconds(ended["startedAt"], ended["finishedAt"])
        for container in [
            *pod["status"]["initContainerStatuses"],
            *pod["status"]["containerStatuses"],
        ]
        for ended in [container["state"]["terminated"]]
    }
    ran, raw = _by_hand(kubectl, pod, store, prefix, tool)
    _forget(store, f"{prefix}/", tooljob.UPLOADED)
    return Both(size, stages, tooljob.seconds_of(job), ran, raw)


def _ratio(tool: Tool, both: Both) -> Figure:
    shown = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in both.stages.items())
    ran = both.by_hand
    return Figure(
        f"pipeline overhead, {tool.format} {tool.precision} of {both.size / 1e9:.1f} GB",
        f"{both.whole / ran.whole:.2f}",
        GOAL,
        f"whole Job {both.whole:.0f} s ({shown}); Job by hand {ran.whole:.0f} s (download "
        f"{ran.download:.1f}, tools {both.tools:.1f}, upload {ran.upload:.1f}); to these steps "
        f"without a pod {both.whole / both.steps:.2f}, quantize stage to the tools alone "
        f"{both.stages['quantize'] / both.tools:.2f}",
    )


def _growth(tool: Tool, small: Both, large: Both) -> Figure:
    """The line through both checkpoints: whole = fixed + slope * steps."""
    slope = (large.whole - small.whole) / (large.steps - small.steps)
    return Figure(
        f"pipeline overhead, {tool.format} {tool.precision}, of what grows",
        f"{slope:.2f}",
        GOAL,
        f"{small.whole - slope * small.steps:.1f} s for any size, and {slope:.2f} s for each "
        "second of the steps without a pod",
    )


def _completed(team: Team, name: str) -> Object | None:
    (job,) = team.jobs(name, "convert")
    return job if "completionTime" in job["status"] else None


def _by_hand(
    kubectl: Kubectl, job_pod: Object, store: Store, prefix: str, tool: Tool
) -> tuple[tooljob.Ran, float]:
    """A Job of the same images and limits, and the seconds that the tools' own commands took."""
    wanted = tooljob.ToolJob(
        f"by-hand-{job_pod['metadata']['name']}"[:63].rstrip("-"),
        f"began=$(date +%s.%N)\n{tool.commands}\n{DONE}",
        ((SOURCES_BUCKET, f"{prefix}/"), (TEXTS_BUCKET, "calibration.txt")),
        files={},
        environment={"MODEL": f"{tooljob.SOURCE_DIR}/{prefix}"},
    )
    ran = tooljob.run(kubectl, job_pod, store, wanted, timeout=3600)
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
