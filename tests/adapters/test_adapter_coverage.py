"""What a quantization did is counted from tensors, and held against the recipe."""

import json
import struct
from decimal import Decimal
from pathlib import Path

import pytest
from quantop_adapters import checkpoint
from quantop_adapters.auto_round import Gptq
from quantop_adapters.coverage import Coverage, Override, Weight, is_output, overridden
from quantop_adapters.llm_compressor import LlmCompressor
from quantop_adapters.mlx import Mlx
from quantop_adapters.refusal import RefusedError

from tests.adapters.checkpoints import write_safetensors, write_source

EMBEDDING = Weight(numbers=1000, bits=32_000, is_layer=False, quantized=False)
LAYER = Weight(numbers=4000, bits=18_000, is_layer=True, quantized=True)
LEFT_ALONE = Weight(numbers=1000, bits=16_000, is_layer=True, quantized=False)


def test_bits_are_counted_over_everything_and_over_the_quantized_layers() -> None:
    coverage = Coverage((EMBEDDING, LAYER, LEFT_ALONE))
    assert coverage.report() == {
        "bitsPerWeight": 11.0,
        "quantizedBitsPerWeight": 4.5,
        "parameters": 6000,
        "quantizedLayers": 1,
        "totalLayers": 2,
    }


def test_the_band_holds_for_the_quantized_layers_whatever_the_embedding_weighs() -> None:
    Coverage((EMBEDDING, LAYER)).check("INT4", Decimal("4"), Decimal("5"), LAYER.numbers)


@pytest.mark.parametrize(("low", "high"), [("4.6", None), (None, "4.4"), ("5", "6")])
def test_bits_outside_the_band_are_refused(low: str | None, high: str | None) -> None:
    with pytest.raises(RefusedError, match=r"layers hold 4\.50") as refusal:
        Coverage((LAYER,)).check(
            "INT4", Decimal(low) if low else None, Decimal(high) if high else None, 4000
        )
    assert refusal.value.reason == "BitsPerWeightOutOfBand"


def test_nearly_all_of_the_sources_layers_have_to_be_quantized() -> None:
    coverage = Coverage((LAYER, LEFT_ALONE))
    coverage.check("INT4", None, None, 4200)
    with pytest.raises(RefusedError, match="hold 4,000 numbers and the source's layers 4,300"):
        coverage.check("INT4", None, None, 4300)


def test_a_quantized_output_layer_does_not_make_up_for_others() -> None:
    output = Weight(numbers=1000, bits=8_500, is_layer=True, quantized=True, is_output=True)
    coverage = Coverage((LAYER, LEFT_ALONE, output))
    with pytest.raises(RefusedError, match="hold 4,000 numbers and the source's layers 5,000"):
        coverage.check("Q8_0", None, None, 5000)


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("output.weight", True),
        ("token_embd.weight", True),
        ("lm_head.weight", True),
        ("model.embed_tokens.weight", True),
        ("blk.0.attn_output.weight", False),
        ("model.layers.0.self_attn.o_proj.weight", False),
    ],
)
def test_the_output_layer_is_known_by_its_name(name: str, output: bool) -> None:
    assert is_output(name) is output


def test_only_layers_of_the_language_model_are_expected_to_be_quantized(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            "model.embed_tokens.weight": ("BF16", [8, 4], bytes(64)),
            "model.layers.0.mlp.up_proj.weight": ("BF16", [6, 4], bytes(48)),
            "model.layers.0.mlp.experts.down_proj": ("BF16", [2, 4, 3], bytes(48)),
            "model.norm.weight": ("BF16", [4], bytes(8)),
            "lm_head.weight": ("BF16", [8, 4], bytes(64)),
            "visual.blocks.0.proj.weight": ("BF16", [4, 4], bytes(32)),
        },
    )
    assert checkpoint.layer_numbers(tmp_path) == 6 * 4 + 2 * 4 * 3


def test_a_quantized_precision_that_quantized_nothing_is_refused() -> None:
    with pytest.raises(RefusedError, match="none of the artifact's 1 layers") as refusal:
        Coverage((EMBEDDING, LEFT_ALONE)).check("Q4_K_M", None, None, 0)
    assert refusal.value.reason == "NothingQuantized"


@pytest.mark.parametrize("precision", ["F16", "FP32"])
def test_a_precision_of_floats_quantizes_nothing_and_is_held_to_its_band(precision: str) -> None:
    coverage = Coverage((LEFT_ALONE,))
    coverage.check(precision, Decimal("15.5"), Decimal("17"), 0)
    with pytest.raises(RefusedError):
        coverage.check(precision, Decimal("31"), Decimal("33"), 0)


def test_an_empty_artifact_is_refused() -> None:
    with pytest.raises(RefusedError, match="no layer"):
        Coverage((EMBEDDING,)).check("F16", None, None, 0)


def test_a_tensor_in_two_files_is_an_error(tmp_path: Path) -> None:
    for file in ("model.safetensors", "model-00002-of-00002.safetensors"):
        write_safetensors(tmp_path / file, {"a.weight": ("I8", [2, 2], bytes(4))})
    with pytest.raises(ValueError, match=r"a\.weight is in model-00002-of-00002\.safetensors and"):
        checkpoint.tensors(tmp_path)


def test_packed_and_integer_layers_count_with_their_scales(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            "model.embed_tokens.weight": ("BF16", [16, 8], bytes(256)),
            # 2 x 16 weights of 4 bits in int32, one scale a row.
            "a.weight_packed": ("I32", [2, 2], bytes(16)),
            "a.weight_scale": ("BF16", [2, 1], bytes(4)),
            "a.weight_shape": ("I64", [2], struct.pack("<2q", 2, 16)),
            # 4 x 8 weights of 8 bits.
            "b.weight": ("I8", [4, 8], bytes(32)),
            "b.weight_scale": ("BF16", [4, 1], bytes(8)),
            "lm_head.weight": ("BF16", [16, 8], bytes(256)),
            "norm.weight": ("BF16", [8], bytes(16)),
        },
    )
    coverage = LlmCompressor().coverage(tmp_path)
    assert coverage.parameters == 128 + 32 + 32 + 128 + 8
    assert (coverage.quantized_layers, coverage.total_layers) == (2, 3)
    assert coverage.quantized_bits_per_weight == (16 + 4 + 32 + 8) * 8 / 64
    assert coverage.bits_per_weight == (256 + 20 + 40 + 256 + 16) * 8 / 328


def test_floats_of_4_bits_are_two_to_a_byte(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            # NVFP4: 2 x 32 weights, a scale of a byte for 16 of them, one for all, one for inputs.
            "a.weight_packed": ("U8", [2, 16], bytes(32)),
            "a.weight_scale": ("F8_E4M3", [2, 2], bytes(4)),
            "a.weight_global_scale": ("F32", [1], bytes(4)),
            "a.input_global_scale": ("F32", [1], bytes(4)),
            "input_layernorm.weight": ("BF16", [32], bytes(64)),
        },
    )
    coverage = LlmCompressor().coverage(tmp_path)
    assert coverage.parameters == 64 + 32
    assert (coverage.quantized_layers, coverage.total_layers) == (1, 1)
    assert coverage.quantized_bits_per_weight == (32 + 4 + 4 + 4) * 8 / 64


def test_weights_of_mlx_are_counted_by_their_scales(tmp_path: Path) -> None:
    config = {"quantization": {"group_size": 32, "bits": 3, "a": {"group_size": 64, "bits": 4}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            # 2 x 64 weights of 4 bits in uint32, a scale and a bias a row; the bias of the layer.
            "a.weight": ("U32", [2, 8], bytes(64)),
            "a.scales": ("BF16", [2, 1], bytes(4)),
            "a.biases": ("BF16", [2, 1], bytes(4)),
            "a.bias": ("BF16", [2], bytes(4)),
            # 1 x 32 weights of 3 bits, and a scale of one byte.
            "b.weight": ("U32", [1, 3], bytes(12)),
            "b.scales": ("U8", [1, 1], bytes(1)),
            "embed_tokens.weight": ("U32", [4, 3], bytes(48)),
            "embed_tokens.scales": ("U8", [4, 1], bytes(4)),
            "router.weight": ("BF16", [2, 4], bytes(16)),
        },
    )
    coverage = Mlx().coverage(tmp_path)
    assert coverage.parameters == 128 + 2 + 32 + 128 + 8
    assert (coverage.quantized_layers, coverage.total_layers) == (2, 3)
    assert coverage.quantized_bits_per_weight == (64 + 4 + 4 + 12 + 1) * 8 / (128 + 32)


def test_weights_of_gptq_are_counted_with_scales_and_zero_points(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4}}))
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            # 16 inputs x 8 outputs of 4 bits, two groups.
            "a.qweight": ("I32", [2, 8], bytes(64)),
            "a.qzeros": ("I32", [2, 1], bytes(8)),
            "a.scales": ("F16", [2, 8], bytes(32)),
            "a.g_idx": ("I32", [16], bytes(64)),
            "a.bias": ("F16", [8], bytes(16)),
            "embed_tokens.weight": ("BF16", [4, 8], bytes(64)),
            "lm_head.weight": ("BF16", [4, 8], bytes(64)),
        },
    )
    coverage = Gptq().coverage(tmp_path)
    assert coverage.parameters == 128 + 32 + 32
    assert (coverage.quantized_layers, coverage.total_layers) == (1, 2)
    assert coverage.quantized_bits_per_weight == (64 + 8 + 32 + 64) * 8 / 128


def test_tensors_are_read_from_safetensors_headers(tmp_path: Path) -> None:
    tensors = checkpoint.tensors(write_source(tmp_path))
    layer = tensors["model.layers.0.mlp.up_proj.weight"]
    assert (layer.shape, layer.numbers, layer.bits) == ((6, 4), 24, 384)
    assert len(tensors) == 3


def matrix(name: str, precision: str, numbers: int = 1000) -> Weight:
    """A layer of a GGUF file."""
    bits = {"Q4_K": 4.5, "Q8_0": 8.5, "F16": 16.0}[precision]
    return Weight(
        numbers, int(numbers * bits), True, precision != "F16", name=name, precision=precision
    )


DOWN = Override("ffn_down", "Q8_0")
TAILORED = Coverage(
    (
        matrix("blk.0.ffn_down.weight", "Q8_0"),
        matrix("blk.0.ffn_up.weight", "Q4_K"),
        matrix("blk.0.attn_q.weight", "F16"),
        Weight(64, 64 * 32, False, False),
    )
)
BAND = Decimal("4"), Decimal("5")


def test_the_first_override_that_fits_counts() -> None:
    overrides = [Override("^blk[.]0[.]", "Q6_K"), DOWN]
    assert overridden("blk.0.ffn_down.weight", overrides) is overrides[0]
    assert overridden("blk.1.ffn_down.weight", overrides) is DOWN
    assert overridden("blk.1.ffn_up.weight", overrides) is None


def test_what_an_override_names_is_not_in_the_band_and_may_stay_in_floats() -> None:
    overrides = [DOWN, Override("attn_q", "F16")]
    TAILORED.check("Q4_K_M", *BAND, 3000, overrides)
    with pytest.raises(RefusedError, match=r"layers hold 6\.50") as refusal:
        TAILORED.check("Q4_K_M", *BAND, 2000)
    assert refusal.value.reason == "BitsPerWeightOutOfBand"
    with pytest.raises(RefusedError) as refusal:
        TAILORED.check("Q4_K_M", *BAND, 3000, [DOWN])
    assert refusal.value.reason == "LayersLeftUnquantized"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            Override("ffn_gate", "Q8_0"),
            "'ffn_gate' is found in, but in the artifact those are none",
        ),
        (Override("ffn_up", "Q8_0"), "but in the artifact those have Q4_K: correct the expression"),
        (Override("ffn", "Q8_0"), "but in the artifact those have Q4_K, Q8_0: correct"),
    ],
)
def test_an_override_that_was_not_followed_is_refused(override: Override, said: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        TAILORED.check("Q4_K_M", None, None, 1000, [override])
    assert refusal.value.reason == "OverrideNotFollowed"
    assert said in str(refusal.value)


def test_overrides_that_name_every_layer_are_another_precision() -> None:
    coverage = Coverage((matrix("blk.0.ffn_down.weight", "Q8_0"),))
    with pytest.raises(RefusedError, match="leave no layer in Q4_K_M") as refusal:
        coverage.check("Q4_K_M", *BAND, 1000, [Override(".", "Q8_0")])
    assert refusal.value.reason == "NothingQuantized"
