"""Run a workflow as Olive's own command does, and say what it made, measured and chose."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from quantop_adapters import search


def main(file: Path) -> None:
    """Run the workflow in a file; what came of it is beside the file."""
    footprint: Any = importlib.import_module("olive.engine.footprint")
    footprint.FootprintNode.update = update
    ran: Any = importlib.import_module("olive.workflows").run(file)
    best = ran.get_best_candidate()
    models = {name: described(node) for name, node in ran.footprint.nodes.items()}
    found = {"chosen": best.model_id if best else None, "models": models}
    file.with_name(search.FOUND).write_text(json.dumps(found, indent=1, default=str))


def update(node: Any, **changes: Any) -> None:
    """Note a model again, which candidates that begin alike have in common: Olive 0.13 calls what
    it notes by another name than its field has, and fails."""
    for name, value in changes.items():
        setattr(node, "model_config_data" if name == "model_config" else name, value)


def described(node: Any) -> dict[str, Any]:
    """A model of Olive's: what made it from which other one, where it lies, and what was measured;
    one that could not be made lies nowhere."""
    path = ((node.model_config_data or {}).get("config") or {}).get("model_path") or ""
    place = Path(path)
    metrics = node.metrics.value.to_json() if node.metrics else {}
    return {
        "parent": node.parent_model_id,
        "type": node.from_pass,
        "settings": node.pass_run_config or {},
        "folder": path and str(place if place.is_dir() else place.parent),
        "metrics": {name: figure["value"] for name, figure in metrics.items()},
        "met": bool(node.metrics and node.metrics.if_goals_met),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
