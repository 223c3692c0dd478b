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
    label, which Olive wants and nobody reads. `{"zeros": SHAPE}` stands for so many of them."""
    numpy: Any = importlib.import_module("numpy")

    def array(value: Any) -> Any:
        if isinstance(value, dict):
            return numpy.zeros(value["zeros"], dtype=numpy.float32)
        return numpy.array(value)

    return [
        ({name: array(value) for name, value in json.loads(line).items()}, 0)
        for line in Path(file).read_text().splitlines()
    ]
