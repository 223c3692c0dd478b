"""docs/reference/reasons.md lists every reason that the code can give."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from quantop.reasons import Reason
from quantop.reconcile import auto

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "reasons.md").read_text()
CONTRACT = (ROOT / "docs" / "reference" / "adapter-contract.md").read_text()
SOURCES = (
    ROOT / "operator" / "quantop_worker",
    ROOT / "images" / "quantizers",
)
ERRORS = {"RefusedError", "TryAgainError", "StageError"}


def literal_reasons() -> Iterator[str]:
    """First arguments of the errors that stages raise, where they are literals."""
    for source in SOURCES:
        for path in source.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ERRORS
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                ):
                    yield str(node.args[0].value)


def test_every_reason_of_the_code_is_on_the_page() -> None:
    listed = set(re.findall(r"`([A-Z][A-Za-z0-9]+)`", PAGE))
    given = {*literal_reasons(), *Reason}
    assert len(given) > 60
    assert given - listed == set()


def test_toolchains_are_told_which_failures_end_a_search() -> None:
    told = re.search(r"holds for every precision: (.*?)\.", CONTRACT, re.DOTALL)
    assert told
    assert set(re.findall(r"`(\w+)`", told[1])) == auto.OF_ALL_ALIKE
