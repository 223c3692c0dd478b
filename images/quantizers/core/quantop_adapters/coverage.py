"""What a quantization really did, counted from the artifact's own tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from quantop_adapters.refusal import RefusedError

UNQUANTIZED = frozenset({"F16", "BF16", "FP16", "F32", "FP32"})
"""Precisions that convert a format without quantizing."""
QUANTIZED_PERCENT_MIN = 95
"""How much of the source's layers has to be quantized, in percent of their numbers."""


@dataclass(frozen=True)
class Override:
    """A precision for those matrices in whose names a regular expression is found."""

    tensors: str
    precision: str


def overridden(name: str, overrides: Iterable[Override]) -> Override | None:
    """The first override that fits a name."""
    return next((each for each in overrides if re.search(each.tensors, name)), None)


@dataclass(frozen=True)
class Weight:
    """One logical weight: its numbers, and the bits that store them, scales and zero points too.

    `is_layer` says that it is a matrix to multiply by, `quantized` that it is stored in a quantized
    type, `is_output` that it gives the logits: some toolchains quantize it, some leave it. `name`
    and `precision` are those of a matrix that an override may name; without overrides they are not
    needed.
    """

    numbers: int
    bits: int
    is_layer: bool
    quantized: bool
    is_output: bool = False
    name: str = ""
    precision: str = ""


def is_output(name: str) -> bool:
    """Whether a tensor of this name gives the logits, or would where the embedding does, too."""
    parts = ("lm_head", "embed", "token_embd")
    return name == "output.weight" or any(part in name for part in parts)


@dataclass(frozen=True)
class Coverage:
    """The weights of an artifact."""

    weights: tuple[Weight, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the artifact's weights stand for."""
        return sum(weight.numbers for weight in self.weights)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per number over all weights."""
        return sum(weight.bits for weight in self.weights) / max(1, self.parameters)

    @property
    def quantized_bits_per_weight(self) -> float:
        """Stored bits per number over the quantized layers, or over everything if there is none."""
        layers = [weight for weight in self.weights if weight.quantized and weight.is_layer]
        if not layers:
            return self.bits_per_weight
        return sum(layer.bits for layer in layers) / sum(layer.numbers for layer in layers)

    @property
    def quantized_layers(self) -> int:
        """Layers stored in a quantized type."""
        return sum(weight.quantized and weight.is_layer for weight in self.weights)

    @property
    def total_layers(self) -> int:
        """All layers."""
        return sum(weight.is_layer for weight in self.weights)

    def report(self) -> dict[str, object]:
        """The counts as the quality file names them."""
        return {
            "bitsPerWeight": round(self.bits_per_weight, 4),
            "quantizedBitsPerWeight": round(self.quantized_bits_per_weight, 4),
            "parameters": self.parameters,
            "quantizedLayers": self.quantized_layers,
            "totalLayers": self.total_layers,
        }

    def check(
        self,
        precision: str,
        low: Decimal | None,
        high: Decimal | None,
        expected: int,
        overrides: Sequence[Override] = (),
    ) -> None:
        """Refuse an artifact that is not what its precision promises.

        `expected` is how many numbers the source's layers hold, the output layer left out: nearly
        all of them have to be in quantized layers. A few matrices stay as they are on purpose, such
        as a router of experts.

        The band from `low` to `high` holds for the bits per weight of the quantized layers: those
        depend on the precision alone, while embeddings left as they are weigh much in a small model
        and little in a large one.

        What `overrides` name has to have their precisions. It is not in the band, and where that is
        a float's it need not be quantized.

        Raises:
            RefusedError: nothing was quantized, or less than the source's layers, or the bits per
                weight lie outside the band, or an override was not followed.
        """
        if not self.total_layers:
            raise RefusedError("EmptyArtifact", "the artifact holds no layer at all")
        rest, kept = self._without(overrides)
        if overrides and precision not in UNQUANTIZED and not rest.quantized_layers:
            raise RefusedError(
                "NothingQuantized",
                f"spec.quantization.overrides leave no layer in {precision}: name fewer tensors, "
                "or choose their precision in spec.quantization.precision",
            )
        if precision not in UNQUANTIZED and not self.quantized_layers:
            raise RefusedError(
                "NothingQuantized",
                f"spec.quantization.precision is {precision}, but none of the artifact's "
                f"{self.total_layers} layers is quantized; their shapes may not suit it: choose "
                "another precision",
            )
        done = sum(
            weight.numbers
            for weight in self.weights
            if weight.quantized and weight.is_layer and not weight.is_output
        )
        expected -= kept
        if precision not in UNQUANTIZED and done * 100 < expected * QUANTIZED_PERCENT_MIN:
            raise RefusedError(
                "LayersLeftUnquantized",
                f"spec.quantization.precision is {precision}, but the artifact's quantized layers "
                f"hold {done:,} numbers and the source's layers {expected:,}; the shapes of the "
                "others may not suit it: choose another precision",
            )
        found = rest.quantized_bits_per_weight
        if (low is not None and found < low) or (high is not None and found > high):
            raise RefusedError(
                "BitsPerWeightOutOfBand",
                f"spec.quantization.precision {precision} promises {low or 0} to {high or 'any'} "
                f"bits per weight, but the artifact's layers hold {found:.2f}; their shapes may "
                "not suit it: choose another precision",
            )

    def _without(self, overrides: Sequence[Override]) -> tuple[Coverage, int]:
        """The weights that no override names, and how many numbers of layers the overrides keep
        from being quantized.

        Raises:
            RefusedError: an override names nothing, or what it names has another precision.
        """
        named = [(weight, overridden(weight.name, overrides)) for weight in self.weights]
        for index, override in enumerate(overrides):
            precisions = {
                weight.precision for weight, its in named if weight.name and its is override
            }
            if precisions != {override.precision}:
                found = f"have {', '.join(sorted(precisions))}" if precisions else "are none"
                raise RefusedError(
                    "OverrideNotFollowed",
                    f"spec.quantization.overrides[{index}] gives {override.precision} to tensors "
                    f"that {override.tensors!r} is found in, but in the artifact those {found}: "
                    "correct the expression, or the precision: not every shape suits every one",
                )
        rest = tuple(weight for weight, its in named if its is None or not weight.name)
        kept = sum(
            weight.numbers
            for weight, its in named
            if weight.name
            and its
            and weight.is_layer
            and not weight.quantized
            and not weight.is_output
        )
        return Coverage(rest), kept
