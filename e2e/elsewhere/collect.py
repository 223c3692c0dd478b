"""``python -m e2e.elsewhere.collect FOLDER``: beside the cluster, one folder for each case."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.quantizedmodel import Artifact, Evaluation, Serving
from quantop.builders import serving
from quantop.contract import DRAFT_MODEL_DIR, MODEL_DIR

from e2e.conformance.rows import GPU_RUNTIME, Row, rows
from e2e.conformance.test_conformance import EVALUATION, TIMEOUT, model
from e2e.install import ensure_namespace
from e2e.kubectl import Kubectl, Object
from e2e.scenarios.team import SOURCE, VLLM_FORMATS, Team
from e2e.store import MODELS, Store

NAMESPACE = "e2e-elsewhere"
OPTIONS_ON = ("llm-compressor", "FP8_DYNAMIC")
DRAFT = ("llm-compressor", "W4A16")
AT_ONCE = 2
"""Conversions."""


@dataclass(frozen=True)
class Case:
    """An artifact, and how the engine is told to serve it."""

    name: str
    row: Row
    engine: Mapping[str, Any] = field(default_factory=dict)
    """``spec.serving.engine``."""
    args: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """What a platform team adds to the ModelRuntime."""


def cases(runtime: ModelRuntimeSpec) -> Iterator[Case]:
    """Each precision by one method, and each value of each option that one device can have."""
    chosen: dict[tuple[str, str], Row] = {}
    for row in rows():
        if row.format in VLLM_FORMATS and not (
            (row.quantizer, row.precision) in chosen and row.calibrated
        ):
            chosen[row.quantizer, row.precision] = row
    for row in chosen.values():
        yield Case(row.name, row)
    row = chosen[OPTIONS_ON]
    for option in runtime.options:
        for value in option.values:
            engine = {option.name.value: value.value}
            yield Case(f"{option.name}-{value.value}".lower().replace("_", "-"), row, engine)
    yield Case("limits", row, {"maxModelLength": 1024, "maxConcurrentRequests": 8})
    yield Case("draft-model", row, {"draftModel": {"name": chosen[DRAFT].name}})
    middlewares = ("quantop_drain.CloseWhenDraining", "quantop_disclosure.DiscloseArtifact")
    yield Case(
        "middlewares",
        row,
        args=[f"--middleware={each}" for each in middlewares],
        environment={"PYTHONPATH": "images/runtimes/vllm"},
    )


def collect(folder: Path) -> None:
    """Make what is missing, and write the cases and the source.

    Raises:
        AssertionError: a conversion failed, with everything that says why.
    """
    runtime = ModelRuntimeSpec.model_validate(yaml.safe_load(GPU_RUNTIME.read_text())["spec"])
    store, kubectl = Store.from_environment(), Kubectl()
    ensure_namespace(kubectl, NAMESPACE, store)
    team = Team(kubectl, NAMESPACE)
    wanted = list(cases(runtime))

    def make(row: Row) -> tuple[str, Object]:
        team.apply(model(row, SOURCE, serving=None))
        return row.name, team.ready(row.name, timeout=TIMEOUT)["status"]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = dict(pool.map(make, {case.row.name: case.row for case in wanted}.values()))
    for name, status in made.items():
        download(store, status["artifact"], folder / "artifacts" / name)
    for case in wanted:
        status = made[case.row.name]
        write(folder / "cases" / f"{case.name}.json", described(case, status, runtime))
    source = folder / "artifacts" / "source"
    shutil.copytree(MODELS / Path(SOURCE).name, source, dirs_exist_ok=True)
    shutil.copy(MODELS / "evaluation.txt", folder)
    kubectl.run("delete", "quantizedmodels", "--all", f"--namespace={NAMESPACE}", timeout=300)


def described(case: Case, status: Object, runtime: ModelRuntimeSpec) -> dict[str, Any]:
    """What `serve` reads: where the artifact is, its container, and what was measured."""
    spec = Serving.model_validate({"engine": case.engine} if case.engine else {})
    artifact = Artifact.model_validate(status["artifact"])
    container = serving.engine(case.name, spec, artifact, runtime)
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    folders = {str(MODEL_DIR): case.row.name}
    if "draftModel" in case.engine:
        folders[str(DRAFT_MODEL_DIR)] = str(case.engine["draftModel"]["name"])
    return {
        "row": case.row.id,
        "engine": dict(case.engine),
        "folders": folders,
        "command": [*container["command"], *container["args"], *case.args],
        "environment": {**environment, **case.environment},
        "evaluation": Evaluation.model_validate(EVALUATION).model_dump(mode="json", by_alias=True),
        "quality": status["quality"],
    }


def download(store: Store, artifact: Object, folder: Path) -> None:
    """The artifact's files as an engine sees them."""
    prefix = f"{artifact['uri']}/"
    for file in json.loads(store.read(f"{prefix}manifest.json"))["files"]:
        target = folder / file["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(prefix + file["object"]))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Collect."""
    parser = argparse.ArgumentParser(prog="python -m e2e.elsewhere.collect", description=__doc__)
    parser.add_argument("folder", type=Path)
    collect(parser.parse_args(arguments).folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
