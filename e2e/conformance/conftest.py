"""What every row finds: what every scenario finds, and a checkpoint that was never converted."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from e2e.conformance.rows import SAMPLE, WORKFLOWS, Row, rows
from e2e.scenarios.conftest import kubectl, make_team, operator, push_unique, store, team
from e2e.store import Store

FIRST: Mapping[str, Callable[[Row], bool]] = {
    "first_row": lambda row: True,
    "first_classifier_row": lambda row: row.classifies,
    "first_composing_row": lambda row: row.quantizer in WORKFLOWS and row.precision == "INT4",
    "first_compiled_row": lambda row: row.format == "QNN",
    "first_saved_row": lambda row: row.saved,
}
"""Of each Quantizer the first row of a kind, by the argument that a test takes it as."""

__all__ = ["kubectl", "make_team", "operator", "store", "team"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--row", default="", help="only rows that begin so, e.g. openvino/INT4")
    parser.addoption("--sample", action="store_true", help="only the quick rows")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    begin, sample = metafunc.config.getoption("--row"), metafunc.config.getoption("--sample")
    chosen = [row for row in rows() if row.id.startswith(begin)]
    if sample:
        # Only with images that the demo has, too.
        chosen = [replace(row, others=()) for row in chosen if row.id in SAMPLE]
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", chosen, ids=[row.id for row in chosen])
    for argument, wanted in FIRST.items():
        if argument in metafunc.fixturenames:
            first = {row.quantizer: row for row in reversed(chosen) if wanted(row)}
            metafunc.parametrize(argument, first.values(), ids=list(first))


@pytest.fixture(scope="session")
def source(store: Store) -> Callable[[str], str]:
    """The uri of a test model that no artifact exists of: whatever is seen was made now."""
    return functools.cache(functools.partial(push_unique, store))


@pytest.fixture
def new_checkpoint(store: Store) -> Callable[..., str]:
    return functools.partial(push_unique, store)
