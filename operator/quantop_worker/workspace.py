"""Where a conversion's files lie."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from quantop import contract

from quantop_worker.errors import TryAgainError


@dataclass(frozen=True)
class Workspace:
    """The folders that the stages of a conversion share."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Workspace":
        """``WORK_DIR``, as the adapters see it too, or the contract's place."""
        return cls(Path(os.environ.get("WORK_DIR", str(contract.WORK_DIR))))

    def _at(self, path: PurePosixPath) -> Path:
        return self.root / path.relative_to(contract.WORK_DIR)

    @property
    def source(self) -> Path:
        """The checkpoint."""
        return self._at(contract.SOURCE_DIR)

    @property
    def artifact(self) -> Path:
        """What the toolchain wrote."""
        return self._at(contract.ARTIFACT_DIR)

    @property
    def state(self) -> Path:
        """What stages note for later ones, and for their own next attempt."""
        return self._at(contract.STATE_DIR)

    @property
    def calibration_file(self) -> Path:
        """The calibration text."""
        return self._at(contract.CALIBRATION_FILE)

    @property
    def workflow_file(self) -> Path:
        """The workflow that came out of the store."""
        return self._at(contract.WORKFLOW_FILE)

    @property
    def evaluation_file(self) -> Path:
        """The evaluation text."""
        return self._at(contract.EVALUATION_FILE)

    @property
    def prompts_file(self) -> Path:
        """The prompts."""
        return self._at(contract.PROMPTS_FILE)

    @property
    def tasks(self) -> Path:
        """The folder of tasks."""
        return self._at(contract.TASKS_DIR)

    @property
    def quality_file(self) -> Path:
        """What the evaluate stage measured."""
        return self._at(contract.QUALITY_FILE)

    @property
    def benchmark_file(self) -> Path:
        """What the toolchain measured itself, if it did."""
        return self._at(contract.BENCHMARK_FILE)

    @property
    def quantize_done_file(self) -> Path:
        """The mark of a finished artifact folder."""
        return self._at(contract.QUANTIZE_DONE_FILE)

    @property
    def published_file(self) -> Path:
        """There when nothing is left to do: the ArtifactSummary."""
        return self._at(contract.PUBLISHED_FILE)

    @property
    def source_file(self) -> Path:
        """What fetch fetched."""
        return self.state / "source.json"

    @property
    def fetched_file(self) -> Path:
        """One JSON line for every source file that is complete."""
        return self.state / "fetched.jsonl"


def pvc_folder() -> Path:
    """Where claims are mounted; ``PVC_DIR`` in the environment moves it."""
    return Path(os.environ.get("PVC_DIR", str(contract.PVC_DIR)))


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_json(path: Path) -> Any:
    """The JSON in a file; None when there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def check_disk(needed: int, folder: Path) -> None:
    """Make the folder. Raises TryAgainError ``InsufficientDisk`` when the bytes do not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TryAgainError(
            "InsufficientDisk",
            f"{needed} bytes are to be written to {folder}, where {free} are free: give the node "
            f"more disk.",
        )
