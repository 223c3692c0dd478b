"""Packed weights of the classic formats, unpacked by hand."""

import numpy as np
import pytest
from quantop_adapters.auto_round import AWQ_ORDER, weight_of

INPUTS, OUTPUTS, GROUP = 16, 8, 8
NUMBERS = np.arange(INPUTS * OUTPUTS, dtype=np.int64).reshape(INPUTS, OUTPUTS) * 7 % 16
ZEROS = np.array([[8] * OUTPUTS, range(1, OUTPUTS + 1)])
SCALES = np.linspace(0.5, 2, 2 * OUTPUTS).reshape(2, OUTPUTS).astype(np.float16)
EXPECTED = (
    (NUMBERS - ZEROS.repeat(GROUP, axis=0)) * SCALES.astype(np.float32).repeat(GROUP, axis=0)
).T


def words(numbers: np.ndarray, order: tuple[int, ...] = tuple(range(8))) -> np.ndarray:
    """Eight columns of 4 bits to a word; `order` says which column each nibble holds."""
    columns = numbers.reshape(len(numbers), -1, 8)
    found = sum(columns[..., column] << 4 * nibble for nibble, column in enumerate(order))
    return np.asarray(found).astype(np.uint32).view(np.int32)


def gptq() -> dict[str, np.ndarray]:
    return {
        "qweight": words(NUMBERS.T).T,
        "qzeros": words(ZEROS - 1),
        "scales": SCALES,
        "g_idx": np.arange(INPUTS, dtype=np.int32) // GROUP,
    }


def test_a_gptq_layer_is_numbers_less_zero_points_times_scales() -> None:
    quantization = {"bits": 4, "group_size": GROUP, "quant_method": "gptq"}
    assert np.array_equal(weight_of(gptq(), quantization), EXPECTED)


def test_rows_of_a_gptq_layer_may_belong_to_any_group() -> None:
    """As act-order leaves them."""
    quantization = {"bits": 4, "group_size": GROUP, "quant_method": "gptq"}
    swapped = gptq()
    swapped["g_idx"] = swapped["g_idx"][::-1]
    zeros, scales = ZEROS[::-1].repeat(GROUP, axis=0), SCALES[::-1].repeat(GROUP, axis=0)
    expected = ((NUMBERS - zeros) * scales.astype(np.float32)).T
    assert np.array_equal(weight_of(swapped, quantization), expected)


def test_an_awq_layer_has_its_columns_interleaved() -> None:
    quantization = {"bits": 4, "group_size": GROUP, "quant_method": "awq"}
    packed = {
        "qweight": words(NUMBERS, AWQ_ORDER),
        "qzeros": words(ZEROS, AWQ_ORDER),
        "scales": SCALES,
    }
    assert np.array_equal(weight_of(packed, quantization), EXPECTED)


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_or_misshapen_part_does_not_pass(part: str) -> None:
    quantization = {"bits": 4, "group_size": GROUP, "quant_method": "gptq"}
    rest = {name: value for name, value in gptq().items() if name != part}
    with pytest.raises(KeyError):
        weight_of(rest, quantization)
    with pytest.raises((IndexError, ValueError)):
        weight_of({**gptq(), part: gptq()[part][:1]}, quantization)
