"""What Olive calibrates on. Olive itself loads this file, where it runs its passes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

registry: Any = importlib.import_module("olive.data.registry")


@registry.Registry.register_dataset()  # type: ignore[misc]
def quantop_texts(file: str, **_: Any) -> list[tuple[dict[str, Any], int]]:
    """Each line's text as the graph's inputs take it, without the dimension of a batch; and a
    label, which Olive wants and nobody reads."""
    numpy: Any = importlib.import_module("numpy")
    return [
        ({name: numpy.array(ids) for name, ids in json.loads(line).items()}, 0)
        for line in Path(file).read_text().splitlines()
    ]
