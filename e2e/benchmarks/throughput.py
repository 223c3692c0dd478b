"""How fast the worker moves bytes: publish and fetch beside s5cmd on the same 2 GiB of files.

The worker's time is that of the whole stage as a Job runs it: from the start of Python to the
termination message, with the sha256 of every byte, the manifest and the provenance. Both run
outside the cluster's pods, by turns, so that whatever else the machine does meets both alike. Also
without a cluster, against any S3 server that ``AWS_ENDPOINT_URL`` and the like name:

    python -m e2e.benchmarks.throughput

s5cmd hashes nothing that it fetches. Where hashing has a processor of its own it costs no time; on
a machine whose processors are all busy, it costs its share of them.
"""

import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from quantop.contract import (
    ConversionTask,
    Recipe,
    Referrer,
    ResolveResult,
    SourceRef,
    StoreRef,
)
from quantop_worker.digests import records_of

from e2e.benchmarks.figures import Figure, show
from e2e.cluster import toolchain
from e2e.cluster.paths import REPOSITORY
from e2e.kubectl import Kubectl
from e2e.scenarios.team import Team
from e2e.store import ARTIFACTS_BUCKET, Store, ensure_bucket

ROUNDS = 3
SHARDS = {"large": 1, "middle": 3, "small": 32}
BYTES = {"large": 1 << 30, "middle": 288 << 20, "small": 5 << 20}
"""2 GiB: one large file, some middling ones, many small ones."""
MIB = 1 << 20
PREFIX = "benchmarks/throughput"
CONFIG = {"architectures": ["LlamaForCausalLM"]}
QUALITY = {
    "protocol": "windows-v1",
    "bitsPerWeight": 16,
    "parameters": 1 << 30,
    "quantizedLayers": 0,
    "totalLayers": 0,
    "evaluationSkipped": True,
}


def measure(kubectl: Kubectl, team: Team) -> list[Figure]:
    """Against the cluster's own store."""
    return figures(Store.from_environment())


def figures(store: Store) -> list[Figure]:
    """Move the files by turns and compare the medians."""
    toolchain.build(["s5cmd"], print)
    ensure_bucket(store.client(), ARTIFACTS_BUCKET)
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        race = Race(store, Path(folder))
        try:
            for number in range(ROUNDS):
                race.run(number)
        finally:
            race.empty()
    return [
        _figure("publish", race.seconds["publish"], race.seconds["s5cmd up"], race.size),
        _figure("fetch", race.seconds["fetch"], race.seconds["s5cmd down"], race.size),
        _figure(
            "fetch, beside s5cmd and then hashing what it fetched",
            race.seconds["fetch"],
            [
                sum(both)
                for both in zip(race.seconds["s5cmd down"], race.seconds["hash"], strict=True)
            ],
            race.size,
        ),
    ]


@dataclass
class Race:
    """The files, and how long each way of moving them took in each round."""

    store: Store
    folder: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checkpoint = self.folder / "checkpoint"
        self.size = _write_files(self.checkpoint)
        self.put(f"{self.checkpoint}/", f"{PREFIX}/source/")

    def run(self, number: int) -> None:
        """One round: each way once."""
        task = self.task(number)
        work = self.folder / "work"
        self._time("fetch", lambda: self.stage("fetch", task, work))
        down = self.folder / "down"
        self._time("s5cmd down", lambda: self.get(f"{PREFIX}/source/*", f"{down}/"))
        files = {path.name: path for path in down.iterdir()}
        self._time("hash", lambda: records_of(files))
        shutil.rmtree(down)
        (work / "source").rename(work / "artifact")
        (work / "state" / "quality.json").write_text(json.dumps(QUALITY))
        self._time("publish", lambda: self.stage("publish", task, work))
        self._time(
            "s5cmd up", lambda: self.put(f"{work / 'artifact'}/", f"{PREFIX}/copies/{number}/")
        )
        shutil.rmtree(work)
        self.remove(f"{PREFIX}/copies/*")
        self.remove(f"{PREFIX}/artifacts/*")

    def task(self, number: int) -> ConversionTask:
        """A conversion whose key no round before had."""
        task = ConversionTask(
            store=StoreRef(
                endpoint=self.store.endpoint,
                region=self.store.region,
                bucket=ARTIFACTS_BUCKET,
                prefix=PREFIX,
            ),
            source=SourceRef(uri=f"s3://{ARTIFACTS_BUCKET}/{PREFIX}/source"),
            recipe=Recipe(
                format="Original",
                precision=f"Round{number}",
                quantizer="none",
                quantizer_image="none",
            ),
            referrer=Referrer(cluster="benchmark", namespace="throughput", name="race"),
            max_source_bytes=2 * self.size,
        )
        answer = self.stage("resolve", task, self.folder / "work")
        found = ResolveResult.model_validate_json(answer)
        return task.model_copy(update={"key": found.key, "source_identity": found.source_identity})

    def stage(self, name: str, task: ConversionTask, work: Path) -> str:
        """Run a stage of the worker; its termination message."""
        log = self.folder / f"termination-{name}"
        self._run(
            [sys.executable, "-m", "quantop_worker", name],
            PYTHONPATH=str(REPOSITORY / "operator"),
            QUANTOP_TASK=task.to_json(),
            WORK_DIR=str(work),
            TERMINATION_LOG=str(log),
            STORE_AWS_ACCESS_KEY_ID=self.store.access_key,
            STORE_AWS_SECRET_ACCESS_KEY=self.store.secret_key,
        )
        return log.read_text()

    def put(self, source: str, target: str) -> None:
        """Upload a folder by s5cmd."""
        self._s5cmd("cp", source, f"s3://{ARTIFACTS_BUCKET}/{target}")

    def get(self, source: str, target: str) -> None:
        """Download objects by s5cmd."""
        self._s5cmd("cp", f"s3://{ARTIFACTS_BUCKET}/{source}", target)

    def remove(self, pattern: str) -> None:
        """Delete objects by s5cmd."""
        self._s5cmd("rm", f"s3://{ARTIFACTS_BUCKET}/{pattern}")

    def empty(self) -> None:
        """Leave nothing in the store."""
        self.remove(f"{PREFIX}/*")

    def _s5cmd(self, *arguments: str) -> None:
        endpoint = [f"--endpoint-url={self.store.endpoint}"] if self.store.endpoint else []
        self._run(
            [str(toolchain.binary("s5cmd")), *endpoint, *arguments],
            AWS_ACCESS_KEY_ID=self.store.access_key,
            AWS_SECRET_ACCESS_KEY=self.store.secret_key,
            AWS_REGION=self.store.region,
        )

    def _run(self, command: list[str], **environment: str) -> None:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")

    def _time(self, what: str, move: Callable[[], object]) -> None:
        # What the one before left to be written must not be paid for by the one after.
        os.sync()
        began = time.monotonic()
        move()
        self.seconds.setdefault(what, []).append(time.monotonic() - began)


def _write_files(folder: Path) -> int:
    """A checkpoint in shards of all sizes; its bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weight_map = {}
    for kind, count in SHARDS.items():
        for number in range(count):
            name, tensor = f"{kind}-{number}.safetensors", f"{kind}.{number}"
            _write_shard(folder / name, tensor, BYTES[kind])
            weight_map[tensor] = name
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    return sum(path.stat().st_size for path in folder.iterdir())


def _write_shard(path: Path, tensor: str, size: int) -> None:
    """A safetensors file of one tensor: the header's length, the header, the data."""
    entry = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
    header = json.dumps({tensor: entry}).encode()
    block = os.urandom(MIB)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _ in range(size // MIB):
            file.write(block)


def _figure(what: str, ours: list[float], theirs: list[float], size: int) -> Figure:
    mine, other = statistics.median(ours), statistics.median(theirs)
    return Figure(
        f"throughput over s5cmd's: {what}",
        f"{other / mine:.2f}",
        "0.9",
        f"{size / mine / MIB:.0f} MiB/s, s5cmd {size / other / MIB:.0f} MiB/s, "
        f"medians of {len(ours)}, {size / MIB:.0f} MiB",
    )


if __name__ == "__main__":
    show("throughput", figures(Store.from_environment()))
