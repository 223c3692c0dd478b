# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "numpy==2.4.6",
#   "safetensors==0.8.0",
#   "tokenizers==0.23.3",
#   "torch==2.13.0",
#   "transformers==5.17.0",
# ]
# ///
"""Make the test encoder, the test classifier and the labelled text of `e2e/models/`.

    uv run --script e2e/models/train_encoders.py --out DIR     # everything, on one CPU core
    uv run --script e2e/models/train_encoders.py --measure     # only print the figures

The text is that of `train.py`, by paragraphs. What is written:

    classification.jsonl    held-out paragraphs, each with the part of the manual that it is from
    tiny-bert/              sentence encoder: paragraphs of one document lie near each other
    tiny-bert-classifier/   tells the part of the manual

Whole documents are held out, chosen by the hash of their path; neither the tokenizer nor a model
ever sees them. Every random choice has a fixed seed; what `train.py` says of processors holds here.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from train import fetch_documentation, plain_text
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
)

HERE = Path(__file__).resolve().parent

PARTS = {
    "c-api": ("c-api", "extending"),
    "guide": ("faq", "howto", "tutorial", "using"),
    "library": ("library",),
}
"""Label -> folders of the documentation."""
HELD_OUT_PERCENT = 10
PARAGRAPH_CHARACTERS = range(120, 1200)
LABELLED_PARAGRAPHS = 400

VOCABULARY = 2048
HIDDEN = 128
FEED_FORWARD = 512
LAYERS = 2
HEADS = 4
CONTEXT = 512

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

STEPS = 300
BATCH = 48
SEQUENCE = 64
LEARNING_RATE = 1e-3
TEMPERATURE = 0.05
"""Of the contrastive loss; that of sentence-transformers."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, the part of the manual that it is from, and its document."""

    text: str
    label: str
    document: str


def read_paragraphs(sources: Path) -> tuple[list[Paragraph], list[Paragraph]]:
    """The paragraphs below `sources`, to train on and held out, in the documents' order."""
    training: list[Paragraph] = []
    held_out: list[Paragraph] = []
    for label, folders in PARTS.items():
        for folder in folders:
            for path in sorted((sources / folder).glob("*.rst.txt")):
                name = f"{folder}/{path.name}"
                chosen = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
                side = held_out if chosen < HELD_OUT_PERCENT else training
                for block in plain_text(path.read_text(encoding="utf-8")).split("\n\n"):
                    text = " ".join(block.split())
                    if len(text) in PARAGRAPH_CHARACTERS:
                        side.append(Paragraph(text, label, name))
    if not training:
        raise FileNotFoundError(f"{sources} holds no folder of *.rst.txt documents")
    return training, held_out


def train_tokenizer(paragraphs: Sequence[Paragraph]) -> Tokenizer:
    """Train a WordPiece tokenizer as BERT has it, in lower case."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        (paragraph.text for paragraph in paragraphs),
        trainers.WordPieceTrainer(
            vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, show_progress=False
        ),
    )
    first, last = ((token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.BertProcessing(last, first)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Token ids and their mask, both (texts, at most SEQUENCE)."""
    tokenizer.enable_truncation(SEQUENCE)
    tokenizer.enable_padding(pad_token="[PAD]")
    encodings = tokenizer.encode_batch(list(texts))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return {
        "input_ids": torch.tensor([each.ids for each in encodings]),
        "attention_mask": torch.tensor([each.attention_mask for each in encodings]),
    }


def mean_pooled(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Embeddings of length 1, (texts, HIDDEN)."""
    mask = inputs["attention_mask"][..., None]
    states = model(**inputs).last_hidden_state
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def config() -> BertConfig:
    """The shape of both models."""
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
    )


def train(
    model: PreTrainedModel, steps: int, loss_of: Callable[[random.Random], torch.Tensor]
) -> None:
    """Train `model` in place; `loss_of` draws a batch and gives its loss."""
    draw = random.Random(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    model.train()
    for step in range(1, steps + 1):
        loss = loss_of(draw)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step} loss {loss.item():.3f}", flush=True)
    model.eval()


def train_encoder(tokenizer: Tokenizer, paragraphs: Sequence[Paragraph], steps: int) -> BertModel:
    """An encoder for which two neighbouring paragraphs lie nearer than those of other documents."""
    pairs = [
        (one.text, other.text)
        for one, other in itertools.pairwise(paragraphs)
        if one.document == other.document
    ]
    torch.manual_seed(0)
    model = BertModel(config(), add_pooling_layer=False)

    def loss_of(draw: random.Random) -> torch.Tensor:
        batch = draw.sample(pairs, BATCH)
        ones, others = (
            mean_pooled(model, encode(tokenizer, side)) for side in zip(*batch, strict=True)
        )
        return torch.nn.functional.cross_entropy(ones @ others.T / TEMPERATURE, torch.arange(BATCH))

    train(model, steps, loss_of)
    return model


def train_classifier(
    tokenizer: Tokenizer, paragraphs: Sequence[Paragraph], steps: int
) -> BertForSequenceClassification:
    """A classifier of a paragraph's part of the manual, each part as often as the others."""
    labels = list(PARTS)
    by_label = {
        label: [each.text for each in paragraphs if each.label == label] for label in labels
    }
    torch.manual_seed(0)
    shape = config()
    shape.id2label = dict(enumerate(labels))
    shape.label2id = {label: index for index, label in enumerate(labels)}
    shape.problem_type = "single_label_classification"
    model = BertForSequenceClassification(shape)

    def loss_of(draw: random.Random) -> torch.Tensor:
        chosen = [index % len(labels) for index in range(BATCH)]
        texts = [draw.choice(by_label[labels[index]]) for index in chosen]
        return model(**encode(tokenizer, texts), labels=torch.tensor(chosen)).loss

    train(model, steps, loss_of)
    return model


def save(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model in bf16 and its tokenizer to `folder`, readable by everybody."""
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "model_max_length": CONTEXT,
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "unk_token": "[UNK]",
    }
    write_json(folder / "tokenizer_config.json", described)
    if isinstance(model, BertModel):
        # As sentence-transformers writes it.
        kinds = ("Transformer", "Pooling", "Normalize")
        modules = [
            {
                "idx": index,
                "name": str(index),
                "path": "" if index == 0 else f"{index}_{kind}",
                "type": f"sentence_transformers.models.{kind}",
            }
            for index, kind in enumerate(kinds)
        ]
        write_json(folder / "modules.json", modules)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 256})
        (folder / "1_Pooling").mkdir()
        write_json(
            folder / "1_Pooling" / "config.json",
            {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True},
        )
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def write_json(path: Path, document: object) -> None:
    """Write a file as the other models' are written."""
    path.write_text(json.dumps(document, indent=2) + "\n")


def measure(folder: Path) -> dict[str, float | int]:
    """Load both models below `folder` as a user would, and hold them against the held-out text."""
    lines = [
        json.loads(line)
        for line in (folder / "classification.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    figures: dict[str, float | int] = {"paragraphs": len(lines)}
    with torch.inference_mode():
        for name, kind in (
            ("tiny-bert", AutoModel),
            ("tiny-bert-classifier", AutoModelForSequenceClassification),
        ):
            tokenizer = AutoTokenizer.from_pretrained(folder / name)
            model = kind.from_pretrained(folder / name, dtype=torch.float32).eval()
            figures[f"{name} parameters"] = model.num_parameters()
            inputs = tokenizer(
                [line["text"] for line in lines],
                truncation=True,
                max_length=256,
                padding=True,
                return_tensors="pt",
            )
            if kind is AutoModel:
                embeddings = mean_pooled(model, inputs)
                likeness = embeddings @ embeddings.T - 2 * torch.eye(len(lines))
                nearest = likeness.argmax(-1).tolist()
                hits = sum(
                    lines[index]["document"] == lines[other]["document"]
                    for index, other in enumerate(nearest)
                )
                figures["nearest is of the same document, percent"] = 100 * hits / len(lines)
            else:
                found = model(**inputs).logits.argmax(-1).tolist()
                hits = sum(
                    model.config.id2label[index] == line["label"]
                    for index, line in zip(found, lines, strict=True)
                )
                figures["accuracy, percent"] = 100 * hits / len(lines)
    return figures


def main(arguments: list[str]) -> None:
    """Make text and models, or only measure them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to or to measure")
    parser.add_argument("--text", type=Path, help="unpacked html/_sources folder of the package")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of each model")
    parser.add_argument("--measure", action="store_true", help="train nothing, print the figures")
    options = parser.parse_args(arguments)
    if not options.measure:
        with tempfile.TemporaryDirectory() as temporary:
            training, held_out = read_paragraphs(
                options.text or fetch_documentation(Path(temporary))
            )
        make(training, held_out, options.steps, options.out)
    print(json.dumps(measure(options.out), indent=2))


def make(
    training: Sequence[Paragraph], held_out: Sequence[Paragraph], steps: int, out: Path
) -> None:
    """Write the labelled text and train and write both models."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = random.Random(0).sample(held_out, LABELLED_PARAGRAPHS)
    with (out / "classification.jsonl").open("w", encoding="utf-8") as file:
        for each in chosen:
            line = {"text": each.text, "label": each.label, "document": each.document}
            print(json.dumps(line, ensure_ascii=False), file=file)
    print(f"{len(training)} paragraphs to train on, {len(held_out)} held out", flush=True)
    tokenizer = train_tokenizer(training)
    save(train_encoder(tokenizer, training, steps), tokenizer, out / "tiny-bert")
    classifier = train_classifier(tokenizer, training, steps)
    save(classifier, tokenizer, out / "tiny-bert-classifier")


if __name__ == "__main__":
    main(sys.argv[1:])
