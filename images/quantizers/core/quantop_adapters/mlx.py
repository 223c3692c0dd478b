"""MLX checkpoints by mlx-lm, for Apple's processors; made and scored here on a CPU."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, perplexity, stage
from quantop_adapters.coverage import Coverage, Weight, is_output
from quantop_adapters.refusal import RefusedError


@dataclass(frozen=True)
class Recipe:
    """What mlx-lm is asked for: bits, how many columns share a scale, and how numbers are kept.

    `mixed` gives some layers more bits, by mlx-lm's recipe of the precision's name.
    """

    bits: int
    group: int = 64
    mode: str = "affine"
    mixed: bool = False


RECIPES: Mapping[str, Recipe] = {
    **{f"{bits}bit": Recipe(bits) for bits in (8, 6, 5, 4, 3, 2)},
    "mxfp8": Recipe(8, group=32, mode="mxfp8"),
    "mxfp4": Recipe(4, group=32, mode="mxfp4"),
    "nvfp4": Recipe(4, group=16, mode="nvfp4"),
    "mixed_4_6": Recipe(4, mixed=True),
    "mixed_3_6": Recipe(3, mixed=True),
    "mixed_3_4": Recipe(3, mixed=True),
    "mixed_2_6": Recipe(2, mixed=True),
}
"""By the names that published MLX models have."""


class Mlx:
    """mlx-lm: MLX."""

    name = "mlx"
    format = "MLX"
    precisions: tuple[str, ...] = tuple(RECIPES)

    def version(self) -> str:
        """The version of the package."""
        return importlib.metadata.version("mlx-lm")

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Quantize layers and embeddings, and save what mlx-lm loads."""
        stage.choose_method(task, {stage.DEFAULT_METHOD: False}, self.name)
        recipe = RECIPES[task.precision]
        checkpoint.check_widths(task.source, task.precision, recipe.group)
        progress("loading the checkpoint", 5)
        utils: Any = importlib.import_module("mlx_lm.utils")
        try:
            model, config = utils.load_model(task.source, lazy=True)
            choice = choose_bits(task.precision, model) if recipe.mixed else None
        except ValueError as error:
            found = checkpoint.architecture(checkpoint.read_json(task.source / "config.json"))
            raise RefusedError(
                "UnsupportedArchitecture",
                f"the source's config.json says {found}, of which mlx-lm cannot make "
                f"{task.precision} ({checkpoint.first_sentence(error)}): choose another precision "
                "or another format",
            ) from None
        progress(f"quantizing to {task.precision}", 20)
        model, config = utils.quantize_model(
            model, config, recipe.group, recipe.bits, mode=recipe.mode, quant_predicate=choice
        )
        # mlx computes only now, as it writes.
        utils.save_model(target, model, donate_model=True)
        utils.save_config(config, target / "config.json")
        checkpoint.copy_tokenizer(task.source, target)
        if (task.source / "generation_config.json").is_file():
            shutil.copy(task.source / "generation_config.json", target)

    def coverage(self, artifact: Path) -> Coverage:
        """Count the safetensors: a quantized weight has scales, and some have biases beside them.

        How many numbers are packed into it follows from its scales and how many share each.
        """
        tensors = checkpoint.tensors(artifact)
        quantization = checkpoint.read_json(artifact / "config.json")["quantization"]
        weights = []
        for name, tensor in tensors.items():
            layer, _, part = name.rpartition(".")
            scales = tensors.get(f"{layer}.scales")
            if part == "weight" and scales:
                biases = tensors.get(f"{layer}.biases")
                bits = tensor.bits + scales.bits + (biases.bits if biases else 0)
                numbers = scales.numbers * quantization.get(layer, quantization)["group_size"]
                layered, output = checkpoint.is_layer(tensor), is_output(name)
                weights.append(Weight(numbers, bits, layered, True, output))
            elif not (scales and part in ("scales", "biases")):
                layered = checkpoint.is_layer(tensor)
                weights.append(Weight(tensor.numbers, tensor.bits, layered, quantized=False))
        return Coverage(tuple(weights))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's files."""
        return checkpoint.vocabulary(artifact)

    def scorer(self, task: stage.Task, length: int) -> perplexity.Scorer:
        """Load the artifact by mlx-lm and unpack its weights once, to single precision.

        mlx's product with packed weights is made for Apple's processors. On others it is slower
        than one with unpacked weights, which gives the same numbers up to rounding.
        """
        core: Any = importlib.import_module("mlx.core")
        utils: Any = importlib.import_module("mlx_lm.utils")
        tree: Any = importlib.import_module("mlx.utils")
        try:
            model, _ = utils.load_model(task.artifact)
        except Exception as error:  # a missing tensor, a shape, a key: each has its own type
            raise RefusedError(
                "ArtifactNotLoadable",
                f"mlx-lm cannot load the artifact ({checkpoint.first_sentence(error)})",
            ) from error
        # Scales first: unpacked weights have their type.
        model.set_dtype(core.float32)
        model = utils.dequantize_model(model)
        model.set_dtype(core.float32)
        for name, weight in tree.tree_flatten(model.parameters()):
            if not core.isfinite(weight).all().item():
                raise RefusedError(
                    "NumbersNotFinite", f"the artifact's {name} holds numbers that are not finite"
                )
        numpy: Any = importlib.import_module("numpy")
        caches: Any = importlib.import_module("mlx_lm.models.cache")
        kept: Any = None

        def score(ids: Sequence[int], start: int = 0) -> Iterator[Any]:
            nonlocal kept
            if not start:
                kept = caches.make_prompt_cache(model)
            yield numpy.array(model(core.array([list(ids)]), cache=kept)[0])

        return score


def choose_bits(precision: str, model: Any) -> Any:
    """mlx-lm's choice of bits for each layer in a mixed precision.

    Raises:
        ValueError: the model's layers have other names than those that it goes by.
    """
    convert: Any = importlib.import_module("mlx_lm.convert")
    return convert.mixed_quant_predicate_builder(precision, model, RECIPES[precision].group)


if __name__ == "__main__":
    sys.exit(stage.main(Mlx()))
