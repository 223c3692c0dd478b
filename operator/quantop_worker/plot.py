"""Size against quality, as an SVG that needs nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantop_worker.markup import Markup, element, join

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 112, 16, 48
"""Room around the field: for what the axes say, and for the label of a point at its end."""
LEAST = 1e-6
"""Divergences have six digits: less is drawn as this, as a logarithm knows no 0."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True)
class Point:
    """One artifact; ``divergence`` in nats, finite and not negative."""

    label: str
    size_bytes: int
    divergence: float
    is_this: bool = False


@dataclass(frozen=True)
class Limit:
    """The most divergence, in nats, that an object, NAMESPACE/NAME, allows."""

    owner: str
    divergence: float


def plot(points: Sequence[Point], limit: Limit | None = None) -> Markup:
    """Sizes along the first axis, from 0; divergences up the second, in powers of ten. What is
    beyond the limit is told from the rest."""
    drawn_at = [point.divergence for point in points] + ([limit.divergence] if limit else [])
    values = [max(each, LEAST) for each in drawn_at]
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    step = _step(max(1, *(point.size_bytes for point in points)))
    end = step * math.ceil(max(1, *(point.size_bytes for point in points)) / step)

    def x(size: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * size / end, 1)

    def y(divergence: float) -> float:
        part = (math.log10(max(divergence, LEAST)) - low) / (high - low)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part, 1)

    grid = [
        *(_vertical(x(step * n), size_text(step * n)) for n in range(round(end / step) + 1)),
        *(_horizontal(y(10.0**power), f"{10.0**power:g}") for power in range(low, high + 1)),
    ]
    # This artifact's comes last, on top of the others.
    drawn = sorted(points, key=lambda point: point.is_this)
    marks = [
        _mark(
            point,
            x(point.size_bytes),
            y(point.divergence),
            is_beyond=limit is not None and point.divergence > limit.divergence,
        )
        for point in drawn
    ]
    lines = [_limit(limit, y(limit.divergence))] if limit else []
    middle = (LEFT + WIDTH - RIGHT) / 2
    return element(
        "svg",
        element("text", "size", x=middle, y=HEIGHT - 8, text_anchor="middle"),
        element(
            "text",
            "mean KL divergence, nats (less is better)",
            transform=f"translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)",
            text_anchor="middle",
        ),
        *grid,
        *lines,
        *marks,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label="Size against divergence of each artifact; the table has the figures.",
    )


def size_text(size: float) -> str:
    """Bytes for people, for example ``4.85 GiB``."""
    unit = 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.3g} {UNITS[unit]}" if size < 1000 else f"{size:.0f} {UNITS[unit]}"


def _step(largest: float) -> float:
    """1, 2 or 5 times a power of ten of a unit, so that there are three to eight of it."""
    unit = 1024.0 ** min(len(UNITS) - 1, int(math.log2(largest) // 10))
    rough = largest / unit / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return unit * power * next(each for each in (1, 2, 5, 10) if rough <= each * power * 1.0001)


def _vertical(at: float, label: str) -> Markup:
    bottom = HEIGHT - BOTTOM
    return join(
        element("line", x1=at, x2=at, y1=TOP, y2=bottom, class_="grid"),
        element("text", label, x=at, y=bottom + 18, text_anchor="middle"),
    )


def _horizontal(at: float, label: str) -> Markup:
    return join(
        element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"),
        element("text", label, x=LEFT - 8, y=at + 4, text_anchor="end"),
    )


def _limit(limit: Limit, at: float) -> Markup:
    return join(
        element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="limit"),
        element("text", f"limit of {limit.owner}", x=LEFT + 8, y=at - 6),
    )


def _mark(point: Point, x: float, y: float, *, is_beyond: bool) -> Markup:
    said = f"{point.label}: {size_text(point.size_bytes)}, {point.divergence:.6f} nats"
    if is_beyond:
        said += ", beyond the limit"
    classes = "beyond" if is_beyond else "within"
    if point.is_this:
        # To the left: what is close by is further down and to the right, or up and to the left.
        label = element("text", point.label, x=x - 12, y=y + 4, text_anchor="end")
        return element(
            "g",
            _title(said),
            _circle(x, y, 7),
            label,
            class_="beyond this" if is_beyond else "this",
        )
    label = element("text", point.label, x=x + 9, y=y + 4)
    return element("g", _title(said), _circle(x, y, 5), label, class_=classes)


def _title(said: str) -> Markup:
    return element("title", said)


def _circle(x: float, y: float, radius: int) -> Markup:
    return element("circle", cx=x, cy=y, r=radius)
