"""What the pipeline costs on top of its tools: the whole Job over the raw commands by hand."""

import tempfile
from datetime import datetime
from pathlib import Path

from e2e.benchmarks.checkpoint import write_checkpoint
from e2e.benchmarks.figures import Figure
from e2e.install import WRITER_SECRET
from e2e.kubectl import Kubectl, Object
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import SOURCES_BUCKET, Store, push_checkpoint

LAYERS = 24
PREFIX = f"benchmarks/random-llama-{LAYERS}"
PRECISION = "Q4_K_M"
BY_HAND = f"""
set -e
began=$(date +%s.%N)
python - /work/source --outtype f16 --outfile /work/f16.gguf <<'END'
import os, runpy, sys
folder = os.environ["LLAMA_CPP_PYTHON"]
sys.path.insert(0, folder)
from conversion.base import TextModel
# The script lists the tokenizers of well-known models; that of the test model is not in the list.
TextModel.get_vocab_base_pre = lambda *_: "gpt-2"
runpy.run_path(folder + "/convert_hf_to_gguf.py", run_name="__main__")
END
llama-quantize /work/f16.gguf /work/out.gguf {PRECISION} "$OMP_NUM_THREADS"
echo "by hand: $(date +%s.%N) - $began"
"""
DOWNLOAD = """
import os, boto3
bucket, prefix = os.environ["BUCKET"], os.environ["PREFIX"]
s3 = boto3.client("s3", endpoint_url=os.environ["ENDPOINT"])
os.makedirs("/work/source")
for each in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
    s3.download_file(bucket, each["Key"], "/work/source/" + os.path.basename(each["Key"]))
"""


def measure(kubectl: Kubectl, team: Team) -> list[Figure]:
    """Convert a checkpoint of 0.7 GB both ways, one after the other."""
    store = Store.from_environment()
    with tempfile.TemporaryDirectory() as folder:
        size = write_checkpoint(Path(folder), LAYERS)
        push_checkpoint(store.client(), Path(folder), SOURCES_BUCKET, PREFIX)
    name = team.apply(
        quantized_model(
            "overhead",
            ("GGUF", PRECISION),
            f"s3://{SOURCES_BUCKET}/{PREFIX}",
            serving=None,
            storage={"deletionPolicy": "Delete"},
        )
    )
    team.ready(name, timeout=3600)
    # The object knows of the published artifact before the Job controller has closed the Job.
    job = until("the Job is complete", lambda: _completed(team, name), timeout=60)
    (pod,) = team.pods(name, "convert")
    whole = _seconds(job["status"]["startTime"], job["status"]["completionTime"])
    stages = [
        f"{container['name']} {_seconds(ended['startedAt'], ended['finishedAt']):.0f}"
        for container in [
            *pod["status"]["initContainerStatuses"],
            *pod["status"]["containerStatuses"],
        ]
        for ended in [container["state"]["terminated"]]
    ]
    raw = _by_hand(kubectl, team, pod, store)
    return [
        Figure(
            f"pipeline overhead, GGUF {PRECISION} of {size / 1e9:.1f} GB",
            f"{whole / raw:.2f}",
            "1.1",
            f"whole Job {whole:.0f} s ({', '.join(stages)}), raw commands {raw:.1f} s",
        )
    ]


def _completed(team: Team, name: str) -> Object | None:
    (job,) = team.jobs(name, "convert")
    return job if "completionTime" in job["status"] else None


def _by_hand(kubectl: Kubectl, team: Team, job_pod: Object, store: Store) -> float:
    """Seconds that the tools' own commands take in a plain pod of the same images and limits."""
    containers = {each["name"]: each for each in job_pod["spec"]["initContainers"]}
    quantize, fetch = containers["quantize"], containers["fetch"]
    common = {
        "securityContext": quantize["securityContext"],
        "resources": quantize["resources"],
        "volumeMounts": [
            {"name": "work", "mountPath": "/work"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    threads = [each for each in quantize["env"] if each["name"] == "OMP_NUM_THREADS"]
    settings = {
        "ENDPOINT": store.endpoint_in_cluster or "",
        "BUCKET": SOURCES_BUCKET,
        "PREFIX": f"{PREFIX}/",
        "AWS_DEFAULT_REGION": store.region,
    }
    name = "by-hand"
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": team.namespace},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": job_pod["spec"]["securityContext"],
                "volumes": [{"name": "work", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
                "initContainers": [
                    {
                        **common,
                        "name": "download",
                        "image": fetch["image"],
                        "command": ["python", "-c", DOWNLOAD],
                        "env": [{"name": key, "value": value} for key, value in settings.items()],
                        "envFrom": [{"secretRef": {"name": WRITER_SECRET}}],
                    }
                ],
                "containers": [
                    {
                        **common,
                        "name": name,
                        "image": quantize["image"],
                        "command": ["bash", "-c", BY_HAND],
                        "env": threads,
                    }
                ],
            },
        }
    )

    def ended() -> str | None:
        pod = kubectl.get("pod", name, team.namespace)
        phase = pod["status"].get("phase") if pod else None
        return phase if phase in ("Succeeded", "Failed") else None

    phase = until("the commands by hand end", ended, timeout=3600, every=1)
    log = kubectl.logs(team.namespace, name, name)
    assert phase == "Succeeded", log
    (line,) = (line for line in log.splitlines() if line.startswith("by hand: "))
    finished, began = line.removeprefix("by hand: ").split(" - ")
    return float(finished) - float(began)


def _seconds(began: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
