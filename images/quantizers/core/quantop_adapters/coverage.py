"""What a quantization really did, counted from the artifact's own tensors."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from quantop_adapters.refusal import RefusedError

UNQUANTIZED = frozenset({"F16", "BF16", "FP16", "F32", "FP32"})
"""Precisions that convert a format without quantizing."""
QUANTIZED_PERCENT_MIN = 95
"""How much of the source's layers has to be quantized, in percent of their numbers."""


@dataclass(frozen=True)
class Weight:
    """One logical weight: its numbers, and the bits that store them, scales and zero points too.

    `is_layer` says that it is a matrix to multiply by, `quantized` that it is stored in a quantized
    type, `is_output` that it gives the logits: some toolchains quantize it, some leave it.
    """

    numbers: int
    bits: int
    is_layer: bool
    quantized: bool
    is_output: bool = False


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
        self, precision: str, low: Decimal | None, high: Decimal | None, expected: int
    ) -> None:
        """Refuse an artifact that is not what its precision promises.

        `expected` is how many numbers the source's layers hold, the output layer left out: nearly
        all of them have to be in quantized layers. A few matrices stay as they are on purpose, such
        as a router of experts.

        The band from `low` to `high` holds for the bits per weight of the quantized layers: those
        depend on the precision alone, while embeddings left as they are weigh much in a small model
        and little in a large one.

        Raises:
            RefusedError: nothing was quantized, or less than the source's layers, or the bits per
                weight lie outside the band.
        """
        if not self.total_layers:
            raise RefusedError("EmptyArtifact", "the artifact holds no layer at all")
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
        if precision not in UNQUANTIZED and done * 100 < expected * QUANTIZED_PERCENT_MIN:
            raise RefusedError(
                "LayersLeftUnquantized",
                f"spec.quantization.precision is {precision}, but the artifact's quantized layers "
                f"hold {done:,} numbers and the source's layers {expected:,}; the shapes of the "
                "others may not suit it: choose another precision",
            )
        found = self.quantized_bits_per_weight
        if (low is not None and found < low) or (high is not None and found > high):
            raise RefusedError(
                "BitsPerWeightOutOfBand",
                f"spec.quantization.precision {precision} promises {low or 0} to {high or 'any'} "
                f"bits per weight, but the artifact's layers hold {found:.2f}; their shapes may "
                "not suit it: choose another precision",
            )
