"""``python -m quantop.api.generate``: everything that is made from the types.

Writes ``crds/``, the chart's copies of it and ``docs/reference/``; with ``--check`` it writes
nothing and fails when anything is out of date.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from quantop.api.crds import Schema, crd
from quantop.api.kinds import KINDS
from quantop.api.reference import json_schema, markdown, values_schema

_SOURCE = Path(__file__).resolve().parents[3]
REPOSITORY = _SOURCE
"""Where files are written to."""
CHART_VALUES = Path("charts/quantop/values.schema.json")
"""Written by hand but for what it says of specs: Helm itself drops fields that a kind lacks."""
NOTE = "Made by `make generate` from operator/quantop/api: do not edit."


def generated() -> Iterator[tuple[Path, str]]:
    """Every generated file, by its path in the repository, and its text."""
    for kind in KINDS:
        text = _yaml(crd(kind))
        yield Path("crds", f"{kind.plural}.yaml"), text
        yield Path("charts/quantop/crds", f"{kind.plural}.yaml"), text
        yield Path("docs/reference", f"{kind.singular}.schema.json"), json_schema(kind)
    yield CHART_VALUES, values_schema(json.loads(_SOURCE.joinpath(CHART_VALUES).read_text()))
    yield Path("docs/reference/api.md"), f"<!-- {NOTE} -->\n{markdown()}"


def main(arguments: list[str] | None = None) -> int:
    """Write what is out of date, or only say so; 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m quantop.api.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when out of date")
    check = parser.parse_args(arguments).check
    stale = [(path, text) for path, text in generated() if _text(REPOSITORY / path) != text]
    for path, text in stale:
        if check:
            print(f"{path} is out of date: run `make generate`", file=sys.stderr)
        else:
            (REPOSITORY / path).parent.mkdir(parents=True, exist_ok=True)
            (REPOSITORY / path).write_text(text)
            print(f"wrote {path}")
    return int(check and bool(stale))


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _yaml(document: Schema) -> str:
    return f"# {NOTE}\n" + yaml.safe_dump(document, sort_keys=False, width=100)


if __name__ == "__main__":
    sys.exit(main())
