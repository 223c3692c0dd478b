"""A source that reads a text whole: an encoder of embeddings, or a classifier.

How an encoder's states become one embedding is what sentence-transformers' files in the checkpoint
say (`modules.json` and the pooling's `config.json`); without them it is their mean.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, stage, texts
from quantop_adapters.refusal import RefusedError

CLASSIFIER = "ForSequenceClassification"
"""What the names of classifiers' architectures end with."""
GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""What those of models that generate text end with."""
EMBEDDING, LOGITS = "sentence_embedding", "logits"
"""Names of a graph's output: it tells an encoder from a classifier."""
TRIAL_TEXT = "The quick brown fox jumps over the lazy dog."
"""What an artifact is tried on where no evaluation text is given."""
SWITCH = "pooling_mode_"
POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
"""sentence-transformers' switches, and how they pool."""
# Model types that count positions from behind the padding's.
OFFSET_POSITIONS = ("camembert", "mpnet", "roberta", "xlm-roberta")
Read = Callable[[str, int], tuple[list[int], Any]]
"""From a text and the most tokens to read of it, to their ids and an array of shape (numbers,)."""
Run = Callable[[Any], Any]
"""From a text's encoding to its embedding or logits, an array of shape (1, numbers)."""


def generates(architecture: str) -> bool:
    """Whether models of an architecture generate text."""
    return architecture.endswith(GENERATORS)


def is_classifier(folder: Path) -> bool:
    """Whether it tells labels."""
    return checkpoint.architecture(checkpoint.read_json(folder / "config.json")).endswith(
        CLASSIFIER
    )


def check(folder: Path) -> None:
    """Refuse a model that does not read a text whole, and a classifier of anything but one label.

    Raises:
        RefusedError: with the reason.
    """
    config = checkpoint.read_json(folder / "config.json")
    architecture = checkpoint.architecture(config)
    if generates(architecture):
        raise RefusedError(
            "UnsupportedArchitecture",
            f"the source's config.json says {architecture}, which generates text: choose format "
            "ONNX, which onnxruntime-genai writes, or another one",
        )
    if not architecture.endswith(("Model", "ForMaskedLM", CLASSIFIER)):
        raise RefusedError(
            "UnsupportedArchitecture",
            f"the source's config.json says {architecture}; this format is for encoders (names "
            f"that end with Model or ForMaskedLM) and classifiers ({CLASSIFIER})",
        )
    if not is_classifier(folder):
        pooling(folder)
    elif config.get("problem_type") not in (None, "single_label_classification") or (
        len(labels(folder)) < 2
    ):
        raise RefusedError(
            "UnsupportedHead",
            f"the source has {len(labels(folder))} labels and problem_type "
            f"{config.get('problem_type')} in its config.json; only classifiers that tell one of "
            "several labels are measured, not several labels at once and not scores",
        )


def labels(folder: Path) -> list[str]:
    """The labels' names in the order of the logits."""
    config = checkpoint.read_json(folder / "config.json")
    # Two labels of these names are what transformers takes where none are named.
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(names[index]) for index in sorted(names, key=int)]


def check_labels(source: Path, artifact: Path) -> None:
    """Refuse a classifier's artifact that names labels otherwise than its source.

    Raises:
        RefusedError: a label has another name, by which it would be served.
    """
    if is_classifier(source) and labels(artifact) != labels(source):
        raise RefusedError(
            "LabelsDiffer",
            f"the artifact's config.json names the labels {', '.join(labels(artifact)[:8])}, and "
            f"the source's {', '.join(labels(source)[:8])}: the conversion went wrong",
        )


def pooling(folder: Path) -> tuple[str, bool]:
    """How states become an embedding: `mean`, `cls`, `max` or `last`, and whether it has length 1.

    Raises:
        RefusedError: sentence-transformers' files ask for anything else.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return "mean", False
    modules = json.loads(path.read_text())
    kinds = [str(module["type"]).rsplit(".")[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise RefusedError(
            "UnsupportedPooling",
            f"the source's modules.json lists {', '.join(kinds)}; what can be exported is "
            "Transformer, Pooling and Normalize",
        )
    config = checkpoint.read_json(folder / modules[1]["path"] / "config.json")
    # Newer ones name it, older ones have a switch for each.
    switched = [key for key, on in config.items() if key.startswith(SWITCH) and on]
    modes = switched or [SWITCH + str(config.get("pooling_mode", "mean_tokens"))]
    known = {**POOLINGS, **{SWITCH + mode: mode for mode in POOLINGS.values()}}
    if len(modes) != 1 or modes[0] not in known:
        raise RefusedError(
            "UnsupportedPooling",
            f"the source's {modules[1]['path']}/config.json asks for {', '.join(modes)}; "
            f"what can be exported is one of {', '.join(POOLINGS)}",
        )
    return known[modes[0]], kinds[-1] == "Normalize"


def max_length(folder: Path) -> int:
    """How many tokens of a text the model reads, special ones counted: the least of what its files
    say."""
    config = checkpoint.read_json(folder / "config.json")
    positions = config.get("max_position_embeddings")
    if positions is not None and config.get("model_type") in OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id", 1)) + 1
    bounds = [
        positions,
        checkpoint.read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        checkpoint.read_json(folder / "tokenizer_config.json").get("model_max_length"),
    ]
    return int(min(bound for bound in bounds if bound is not None))


def tokenizer(folder: Path) -> Any:
    """The source's tokenizer of the `tokenizers` library: it adds special tokens and cuts texts at
    the model's length, and does not pad.

    Raises:
        RefusedError: there is none that it can be.
    """
    found = getattr(checkpoint.load_tokenizer(folder), "backend_tokenizer", None)
    if found is None:
        raise RefusedError(
            "UnsupportedTokenizer",
            "the source's tokenizer has no form in the tokenizers library: save it as "
            "tokenizer.json",
        )
    found.no_padding()
    found.enable_truncation(max_length(folder))
    return found


def inputs(folder: Path) -> tuple[str, ...]:
    """The names of what the graph is fed: arrays of int64 of shape (batch, sequence)."""
    config = checkpoint.read_json(folder / "config.json")
    kinds = config.get("type_vocab_size", 2 if config.get("model_type") == "bert" else 0)
    return ("input_ids", "attention_mask", *(("token_type_ids",) if kinds > 1 else ()))


def feed(encoding: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """One text's encoding as a batch of one, by the inputs' names."""
    numpy: Any = importlib.import_module("numpy")
    values = {
        "input_ids": encoding.ids,
        "attention_mask": encoding.attention_mask,
        "token_type_ids": encoding.type_ids,
    }
    return {name: numpy.array([values[name]], dtype=numpy.int64) for name in names}


def load(folder: Path) -> Any:
    """The source in 32-bit floats as a torch module: from the inputs, in their order, to embeddings
    (batch, numbers) or logits (batch, labels).

    Raises:
        RefusedError: transformers cannot load it, or a number in it is not finite.
    """
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    classifies = is_classifier(folder)
    loader = (
        transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModel
    )
    try:
        model, loaded = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            # The other implementations do not export with a free length.
            attn_implementation="eager",
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # the libraries below transformers each have their own
        raise RefusedError(
            "SourceNotLoadable",
            f"transformers cannot load the source ({type(error).__name__}: "
            f"{checkpoint.first_sentence(error)})",
        ) from error
    # An encoder's pooler is not used here, and is not saved by everybody.
    missing = [name for name in loaded["missing_keys"] if classifies or "pooler." not in name]
    if missing:
        raise RefusedError(
            "SourceNotLoadable",
            f"{len(missing)} tensors that config.json asks for are not in the source, first "
            f"{min(missing)}",
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RefusedError(
                "NumbersNotFinite", f"the source's {name} holds numbers that are not finite"
            )
    names = inputs(folder)
    mode, normalized = ("", False) if classifies else pooling(folder)

    def pool(states: Any, mask: Any) -> Any:
        """States (batch, sequence, numbers) to embeddings (batch, numbers)."""
        if mode == "cls":
            return states[:, 0]
        if mode == "last":
            return states[torch.arange(len(states)), mask.sum(dim=1) - 1]
        mask = mask.unsqueeze(-1).to(states.dtype)
        if mode == "max":
            return (states - 1e9 * (1 - mask)).max(dim=1).values
        return (states * mask).sum(dim=1) / mask.sum(dim=1)

    class Whole(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def head(self, found: Any, mask: Any) -> Any:
            """What transformers' model found, as one row for each text."""
            if classifies:
                return found.logits
            embedding = pool(found.last_hidden_state, mask)
            return torch.nn.functional.normalize(embedding, dim=-1) if normalized else embedding

        def forward(self, *given: Any) -> Any:
            return self.head(self.model(**dict(zip(names, given, strict=True))), given[1])

    return Whole().eval()


def exported(source: Path, model: Any, example: tuple[Any, ...], **options: Any) -> Any:
    """The source's module as torch's exporter makes a graph of it; `example` is what it is fed.

    Raises:
        RefusedError: torch cannot export it.
    """
    torch: Any = importlib.import_module("torch")
    try:
        return torch.onnx.export(
            model,
            example,
            dynamo=True,
            output_names=[LOGITS if is_classifier(source) else EMBEDDING],
            verbose=False,
            **options,
        )
    except torch.onnx.OnnxExporterError as error:
        config = checkpoint.read_json(source / "config.json")
        raise RefusedError(
            "UnsupportedArchitecture",
            f"torch cannot export {checkpoint.architecture(config)} as ONNX: "
            f"{checkpoint.first_sentence(error)}",
        ) from error


def by_torch(source: Path) -> Run:
    """The source, run by torch in 32-bit floats.

    Raises:
        RefusedError: transformers cannot load it, or a number in it is not finite.
    """
    module = load(source)
    torch: Any = importlib.import_module("torch")
    names = inputs(source)

    def run(encoding: Any) -> Any:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, feed(encoding, names).values())).numpy()

    return run


def calibration(task: stage.Task) -> Iterator[Any]:
    """Encodings of the calibration's texts, at most `samples`, each cut at `sequence_length`
    tokens."""
    assert task.calibration is not None
    reader = tokenizer(task.source)
    reader.enable_truncation(min(task.calibration.sequence_length, max_length(task.source)))
    for each in texts.read(task.calibration.file)[: task.calibration.samples]:
        yield reader.encode(each.text)


def measure(
    task: stage.Task,
    progress: stage.Progress,
    artifact: Run,
    longest: int,
    load_source: Callable[[], Run] | None = None,
) -> dict[str, object]:
    """Embed, or classify, the evaluation text by the source and by the artifact, or try the
    artifact on a text of ours where there is none.

    `artifact` runs the artifact on an encoding by its own tokenizer, of at most `longest` tokens,
    and what `load_source` gives runs the source; default: torch does.

    Raises:
        RefusedError: its numbers are not finite or not as many as the source's, or its tokens or
            labels are not the source's.
    """
    tokenizers: Any = importlib.import_module("tokenizers")
    check_labels(task.source, task.artifact)
    reader = tokenizers.Tokenizer.from_file(str(task.artifact / "tokenizer.json"))
    reader.no_padding()

    def read(text: str, most: int) -> tuple[list[int], Any]:
        reader.enable_truncation(most)
        encoding = reader.encode(text)
        return encoding.ids, artifact(encoding)[0]

    return compare(task, progress, read, longest, load_source)


def compare(
    task: stage.Task,
    progress: stage.Progress,
    read: Read,
    longest: int,
    load_source: Callable[[], Run] | None = None,
) -> dict[str, object]:
    """The same of an artifact that `read` has read texts, of at most `longest` tokens.

    Raises:
        RefusedError: its numbers are not finite or not as many as the source's, or its tokens are
            not the source's.
    """
    numpy: Any = importlib.import_module("numpy")

    def read_finite(text: str, most: int) -> tuple[list[int], Any]:
        ids, found = read(text, most)
        if not numpy.isfinite(found).all():
            raise RefusedError(
                "NumbersNotFinite",
                "the artifact computes numbers that are not finite: choose another precision",
            )
        return ids, found

    evaluation = task.evaluation
    if evaluation is None or evaluation.file is None:
        read_finite(TRIAL_TEXT, longest)
        return {"protocol": texts.PROTOCOL, "texts": 0, "tokens": 0}
    most = min(evaluation.sequence_length, longest)
    ours = tokenizer(task.source)
    ours.enable_truncation(most)
    given = texts.read(evaluation.file)
    lengths = (len(ours.encode(each.text).ids) for each in given)
    given = texts.within(given, lengths, evaluation.max_tokens)
    progress("loading the source", 10)
    source = load_source() if load_source else by_torch(task.source)
    measured: texts.Measure = (
        texts.Agreement(labels(task.source)) if is_classifier(task.source) else texts.Similarity()
    )
    tokens = 0
    for text in progress.through(given, "comparing the artifact with its source", 15, 99):
        encoding = ours.encode(text.text)
        ids, found = read_finite(text.text, most)
        if ids != encoding.ids:
            raise RefusedError(
                "TokenizerDiffers",
                "the artifact's tokenizer makes other tokens of the evaluation text than the "
                "source's: the conversion went wrong",
            )
        expected = source(encoding)[0]
        if found.shape != expected.shape:
            raise RefusedError(
                "OutputDiffers",
                f"the artifact gives {found.size} numbers for a text, and its source "
                f"{expected.size}: it is another model's; the conversion went wrong",
            )
        measured.add(text, expected, found)
        tokens += len(ids)
    return {
        "protocol": texts.PROTOCOL,
        **measured.report(),
        "texts": len(given),
        "tokens": tokens,
    }
