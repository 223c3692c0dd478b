"""What decides an artifact's key, and what does not."""

import pytest
from quantop.contract import (
    CalibrationRef,
    Override,
    Recipe,
    StoreRef,
    artifact_key,
    artifact_prefix,
)

RECIPE = Recipe(
    format="GGUF", precision="Q4_K_M", quantizer="llama-cpp", quantizer_image="q@sha256:1"
)
DOWN = Override(tensors="ffn_down", precision="Q8_0")
CALIBRATION = CalibrationRef(uri="s3://datasets/calibration.txt", samples=64, sequence_length=256)


def key(
    source: str = "s3:1",
    recipe: Recipe = RECIPE,
    calibration: CalibrationRef | None = CALIBRATION,
    calibration_identity: str | None = "s3:2",
) -> str:
    return artifact_key(source, recipe, calibration, calibration_identity)


@pytest.mark.parametrize(
    "other",
    [
        key(source="s3:other"),
        key(recipe=RECIPE.model_copy(update={"format": "ONNX"})),
        key(recipe=RECIPE.model_copy(update={"precision": "Q8_0"})),
        key(recipe=RECIPE.model_copy(update={"method": "Imatrix"})),
        key(recipe=RECIPE.model_copy(update={"quantizer_image": "q@sha256:2"})),
        key(recipe=RECIPE.model_copy(update={"toolchain_digest": "0" * 64})),
        key(recipe=RECIPE.model_copy(update={"overrides": (DOWN,)})),
        key(recipe=RECIPE.model_copy(update={"max_file_bytes": 2**30})),
        key(recipe=RECIPE.model_copy(update={"workflow": '{"passes":{}}'})),
        key(calibration=None, calibration_identity=None),
        key(calibration=CALIBRATION.model_copy(update={"samples": 65})),
        key(calibration=CALIBRATION.model_copy(update={"sequence_length": 257})),
        key(calibration_identity="s3:other"),
    ],
)
def test_whatever_decides_the_content_decides_the_key(other: str) -> None:
    assert other != key()


def test_names_and_places_do_not_decide_the_key() -> None:
    renamed = RECIPE.model_copy(update={"quantizer": "another-name"})
    moved = CALIBRATION.model_copy(update={"uri": "s3://elsewhere/calibration.txt"})
    assert key(recipe=renamed, calibration=moved) == key()


def test_keys_stay_what_they_were_before_recipes_had_overrides() -> None:
    """Else every artifact would be made anew."""
    assert key() == "bebd6f9d7bae5846ac7e3fbd17ef9a3ec396204998077492e9565a1b9f237d4a"
    assert set(RECIPE.model_dump(by_alias=True)) == {
        *("format", "precision", "method", "quantizer", "quantizerImage")
    }


def test_overrides_count_in_their_order() -> None:
    up = Override(tensors="ffn_up", precision="Q6_K")
    one, other = (
        key(recipe=RECIPE.model_copy(update={"overrides": each}))
        for each in ((DOWN, up), (up, DOWN))
    )
    assert one != other


def test_a_recipe_with_overrides_is_read_as_it_was_written() -> None:
    recipe = RECIPE.model_copy(update={"overrides": (DOWN,), "max_file_bytes": 2**30})
    assert Recipe.model_validate_json(recipe.to_json()) == recipe
    assert recipe.overrides_text == '[{"precision":"Q8_0","tensors":"ffn_down"}]'
    assert RECIPE.overrides_text == ""


def test_a_key_is_a_sha256_in_hex() -> None:
    assert len(key()) == 64
    assert set(key()) <= set("0123456789abcdef")


def test_an_artifact_lies_below_the_stores_prefix() -> None:
    assert artifact_prefix(StoreRef(bucket="models", prefix="prod"), "k") == "prod/artifacts/k"
    assert artifact_prefix(StoreRef(bucket="models"), "k") == "artifacts/k"
