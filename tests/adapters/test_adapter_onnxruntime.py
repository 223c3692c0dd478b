"""What the adapter for encoders and classifiers reads out of a source's files, and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from quantop_adapters import checkpoint, encoder, onnxruntime, stage
from quantop_adapters.refusal import RefusedError

from tests.adapters.checkpoints import KINDS, write_modules, write_source

MODELS = Path(__file__).resolve().parents[2] / "e2e" / "models"
BERT = {"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 512}
CLASSIFIER = BERT | {"architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("kinds", "config", "found"),
    [
        (KINDS, {"pooling_mode_mean_tokens": True}, ("mean", True)),
        (KINDS[:2], {"pooling_mode_cls_token": True}, ("cls", False)),
        (KINDS[:2], {"pooling_mode_max_tokens": True, "include_prompt": True}, ("max", False)),
        (KINDS[:2], {"pooling_mode": "cls"}, ("cls", False)),
        (KINDS, {"pooling_mode_lasttoken": True}, ("last", True)),
        (KINDS, {"pooling_mode": "lasttoken"}, ("last", True)),
        (KINDS, {"word_embedding_dimension": 8}, ("mean", True)),
    ],
)
def test_embeddings_are_pooled_as_the_source_says(
    tmp_path: Path, kinds: list[str], config: dict[str, Any], found: tuple[str, bool]
) -> None:
    write_modules(tmp_path, kinds, config)
    assert encoder.pooling(tmp_path) == found


def test_embeddings_are_means_where_the_source_says_nothing(tmp_path: Path) -> None:
    assert encoder.pooling(tmp_path) == ("mean", False)


@pytest.mark.parametrize(
    ("kinds", "config", "said"),
    [
        (["Transformer", "Pooling", "Dense"], {}, "lists Transformer, Pooling, Dense"),
        (KINDS, {"pooling_mode_weightedmean_tokens": True}, "asks for pooling_mode_weightedmean"),
        (KINDS, {"pooling_mode": "weightedmean"}, "asks for pooling_mode_weightedmean"),
        (
            KINDS,
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "asks for pooling_mode_cls_token, pooling_mode_mean_tokens",
        ),
    ],
)
def test_another_pooling_is_refused(
    tmp_path: Path, kinds: list[str], config: dict[str, Any], said: str
) -> None:
    write_source(tmp_path, BERT)
    write_modules(tmp_path, kinds, config)
    with pytest.raises(RefusedError, match=said) as refusal:
        encoder.check(tmp_path)
    assert refusal.value.reason == "UnsupportedPooling"


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "UnsupportedArchitecture", "onnxruntime-genai"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "UnsupportedArchitecture", "generates"),
        ({"architectures": ["BertForTokenClassification"]}, "UnsupportedArchitecture", "is for"),
        (
            {"problem_type": "multi_label_classification"},
            "UnsupportedHead",
            "has 2 labels and problem_type multi_label_classification",
        ),
        ({"id2label": {"0": "score"}}, "UnsupportedHead", "has 1 labels"),
    ],
)
def test_a_model_that_is_neither_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str, said: str
) -> None:
    write_source(tmp_path, CLASSIFIER | changes)
    with pytest.raises(RefusedError, match=said) as refusal:
        encoder.check(tmp_path)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("config", [BERT, CLASSIFIER])
def test_encoders_and_classifiers_are_read(tmp_path: Path, config: dict[str, Any]) -> None:
    write_source(tmp_path, config)
    encoder.check(tmp_path)


def test_labels_are_in_the_order_of_the_logits(tmp_path: Path) -> None:
    names = {str(index): f"label {index}" for index in (10, 2, 1, 0)}
    write_source(tmp_path, CLASSIFIER | {"id2label": names})
    assert encoder.labels(tmp_path) == ["label 0", "label 1", "label 2", "label 10"]


@pytest.mark.parametrize(
    ("config", "sentence", "tokenizer", "length"),
    [
        ({}, None, None, 512),
        ({}, 256, 512, 256),
        ({}, None, 128, 128),
        ({}, None, 10**30, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 0, 0, 512),
    ],
)
def test_a_text_is_cut_at_the_least_that_the_source_says(
    tmp_path: Path,
    config: dict[str, Any],
    sentence: int | None,
    tokenizer: int | None,
    length: int,
) -> None:
    write_source(tmp_path, BERT | config)
    if sentence:
        (tmp_path / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": sentence})
        )
    if tokenizer:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": tokenizer}))
    assert encoder.max_length(tmp_path) == length


@pytest.mark.parametrize(
    ("config", "types"),
    [
        ({}, True),
        ({"type_vocab_size": 2}, True),
        ({"model_type": "roberta", "type_vocab_size": 1}, False),
        ({"model_type": "distilbert"}, False),
    ],
)
def test_a_graph_has_token_types_where_the_source_has_several(
    tmp_path: Path, config: dict[str, Any], types: bool
) -> None:
    write_source(tmp_path, BERT | config)
    assert ("token_type_ids" in encoder.inputs(tmp_path)) is types


@pytest.mark.parametrize(
    ("precision", "method", "calibration", "reason"),
    [
        ("INT8", "Static", "", "UnsupportedMethod"),
        ("INT4", "Dynamic", "", "UnsupportedMethod"),
        ("INT8", "StaticMinMax", "", "CalibrationRequired"),
        ("INT8", "Dynamic", "text", "CalibrationNotUsed"),
        ("INT8", "", "text", "CalibrationNotUsed"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(
    tmp_path: Path, precision: str, method: str, calibration: str, reason: str
) -> None:
    task = stage.Task.from_environment(
        {
            "WORK_DIR": str(tmp_path),
            "MODEL_NAME": "demo",
            "FORMAT": "ONNXEncoder",
            "PRECISION": precision,
            "METHOD": method,
            "CALIBRATION_FILE": calibration,
        }
    )
    with pytest.raises(RefusedError) as refusal:
        onnxruntime.Onnxruntime().quantize(task, tmp_path, stage.Progress("quantize"))
    assert refusal.value.reason == reason


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-bert-classifier"])
def test_the_test_models_are_such(name: str) -> None:
    encoder.check(MODELS / name)
    checkpoint.check(MODELS / name)
    assert encoder.is_classifier(MODELS / name) == name.endswith("classifier")
