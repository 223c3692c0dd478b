"""Kubernetes resource quantities as integers."""

import math
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity


def to_bytes(quantity: str) -> int:
    """Bytes of a quantity such as ``16Gi``, rounded up."""
    return math.ceil(parse(quantity))


def to_cores(quantity: str) -> int:
    """Whole CPU cores of a quantity such as ``1500m``, at least one, rounded up: a thread pool
    that is smaller than the limit wastes it, one that is much larger is throttled."""
    return max(1, math.ceil(parse(quantity)))


def to_count(quantity: str) -> int:
    """Whole devices of a quantity such as ``8``, rounded up."""
    return math.ceil(parse(quantity))


def parse(quantity: str) -> Decimal:
    """The exact value of a quantity. Raises ValueError when it is none."""
    return Decimal(parse_quantity(quantity))


def same(left: str, right: str) -> bool:
    """Whether two texts are the same quantity: the API server rewrites ``1024Mi`` as ``1Gi``."""
    try:
        return parse(left) == parse(right)
    except (ValueError, ArithmeticError):
        return False


def mebibytes(size: int) -> str:
    """A size in bytes as a quantity in whole ``Mi``, rounded up."""
    return f"{max(1, math.ceil(size / 2**20))}Mi"


def human(size: int) -> str:
    """A size in bytes for people, for example ``8.1 GiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
