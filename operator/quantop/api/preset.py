"""``Preset``: a guideline as data, which recipe and which limits for whom."""

from typing import Annotated, ClassVar

from pydantic import Field

from quantop.api.base import ApiModel, Name
from quantop.api.quantizedmodel import AUTO_NEEDS_A_LIMIT, Format, Limits, Precision, Recipe


class PresetRecipe(Recipe):
    """What ``spec.quantization`` of a QuantizedModel says that names the Preset."""

    format: Format
    """The artifact's format, one that a Quantizer of the cluster writes, for example GGUF, ONNX or
    CompressedTensors."""
    precision: Precision
    """A precision that the Quantizer lists, for example Q4_K_M, INT4 or W4A16; or Auto, for the
    smallest that keeps the limits."""


class PresetSpec(ApiModel):
    """A recipe with its limits."""

    rules: ClassVar = (AUTO_NEEDS_A_LIMIT,)

    description: Annotated[str, Field(min_length=1, max_length=1024)]
    """For whom or for what hardware it is, and why."""
    quantization: PresetRecipe
    """The recipe."""
    quality: Limits | None = None
    """Limits that the artifact must keep; a limit of the QuantizedModel's own wins over the same
    one here. What they are measured by is the QuantizedModel's to give. Default: none."""
    runtime_name: Name | None = None
    """The ModelRuntime, where the QuantizedModel is served and names none. Default: the one of
    highest priority that serves the format and precision."""
