"""What a benchmark prints."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """A measured number, formatted, beside the goal it is compared with (empty: none)."""

    what: str
    measured: str
    goal: str = ""
    details: str = ""


def show(title: str, figures: list[Figure]) -> None:
    """Print a benchmark's figures."""
    table = Table("what", "measured", "goal", "details", title=title, title_justify="left")
    for figure in figures:
        table.add_row(figure.what, figure.measured, figure.goal, figure.details)
    Console(width=150).print(table)
