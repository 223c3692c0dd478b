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
"""Make the two test models of `e2e/models/` and the texts that go with them.

    uv run --script e2e/models/train.py --out DIR    # everything, on one CPU core
    uv run --script e2e/models/train.py --measure    # only print the figures of what is committed

The text is the Python documentation as Debian packages it (`--text DIR` takes an unpacked
`html/_sources` folder instead). Whole documents are held out: one set for evaluation, another for
calibration; neither the tokenizer nor a model ever sees them. What is written:

    evaluation.txt, calibration.txt      the two held-out texts
    tiny-llama/, tiny-phi3/              config, tokenizer and bf16 weights of each model

Every random choice has a fixed seed. The texts and tokenizers come out the same everywhere; the
weights only on the same kind of processor with the same number of threads, because the order of
floating-point sums differs between processors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

HERE = Path(__file__).resolve().parent

PACKAGE = "python3.11-doc=3.11.2-6+deb12u9"
FOLDERS = ("c-api", "extending", "faq", "howto", "library", "reference", "tutorial", "using")
# Release notes repeat sentences of the documents that they announce, so none of them is held out.
TRAINING_ONLY_FOLDERS = ("whatsnew",)
EVALUATION_BYTES = 200_000
CALIBRATION_BYTES = 400_000

# Hidden size, feed-forward size and vocabulary are multiples of 256: the k-quants of GGUF work on
# blocks of 256 weights and silently take another type for rows that do not divide.
VOCABULARY = 2048
HIDDEN = 256
FEED_FORWARD = 768
LAYERS = 4
HEADS = 4
CONTEXT = 2048

# llama.cpp looks `</s>`, `<unk>`, `<s>` and `<|endoftext|>` up by these very names whenever a
# model's name contains "phi3" and fails to load a model that lacks one of them.
UNKNOWN, BOS, EOS, PADDING = "<unk>", "<s>", "</s>", "<|endoftext|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = [UNKNOWN, BOS, EOS, PADDING, SYSTEM, USER, ASSISTANT, END]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

STEPS = 700
BATCH = 8
SEQUENCE = 256
WARMUP_STEPS = 40
# Muon takes the matrices inside the layers: after 120 steps the held-out perplexity was 142, with
# AdamW alone 397. What is no such matrix (embeddings, output head, norms) stays with AdamW.
MUON_LEARNING_RATE = 2e-2
ADAM_LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1

MEASURED_TOKENS = 20_000
MEASURED_WINDOW = 256
SAMPLE_PROMPT = "The following function returns"


# --- Text ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Whole documents as plain text; no document is in two of the three lists."""

    training: list[str]
    evaluation: list[str]
    calibration: list[str]


def fetch_documentation(folder: Path) -> Path:
    """Download and unpack the pinned Debian package below `folder`; return its `_sources` folder.

    Needs a Debian 12 with fresh package lists (`apt-get update`); nothing is installed. Raises
    RuntimeError when the package has no sources inside, and CalledProcessError when apt or dpkg
    fails. A newer version of the package pushes the pinned one out of the archive: unpack it from
    Debian's snapshots then and pass `--text`.
    """
    subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
    (archive,) = folder.glob("*.deb")
    unpacked = folder / "unpacked"
    subprocess.run(["dpkg-deb", "--extract", str(archive), str(unpacked)], check=True)
    for sources in unpacked.glob("usr/share/doc/*/html/_sources"):
        if not sources.is_symlink():
            return sources
    raise RuntimeError(f"{PACKAGE} holds no html/_sources folder")


SIGNATURES = {
    "attribute", "class", "classmethod", "cmdoption", "data", "decorator", "decoratormethod",
    "describe", "envvar", "exception", "function", "macro", "member", "method", "opcode",
    "option", "staticmethod", "struct", "type", "var",
}  # fmt: skip
CODE = {"code-block", "doctest", "highlight", "productionlist", "sourcecode", "testcode"}
ADMONITIONS = {
    "deprecated": "Deprecated since version",
    "important": "Important:",
    "note": "Note:",
    "seealso": "See also:",
    "tip": "Tip:",
    "versionadded": "New in version",
    "versionchanged": "Changed in version",
    "warning": "Warning:",
}
DIRECTIVE = re.compile(r"( *)\.\. (?:[a-z]+:)?([\w-]+):: ?(.*)")
OPTION = re.compile(r" +:[\w-]+:(\s|$)")
ROLE = re.compile(r"(?::[a-z]+)?:([\w-]+):`[!~]?([^`]+?)(?:\s+<[^`]*>)?`")
LINK = re.compile(r"`([^`]+?)(?:\s+<[^`]*>)?`__?")
PROSE_ROLES = {"abbr", "doc", "ref", "term"}


def plain_text(source: str) -> str:
    """Turn reStructuredText into about the text that a reader sees; code keeps its indentation."""
    lines: list[str] = []
    dropped_indent: int | None = None
    for line in source.splitlines():
        line = line.rstrip()
        indent = len(line) - len(line.lstrip())
        if dropped_indent is not None:
            if not line or indent > dropped_indent:
                continue
            dropped_indent = None
        if directive := DIRECTIVE.fullmatch(line):
            margin, name, argument = directive.groups()
            if name in SIGNATURES:
                lines.append(margin + argument)
            elif name in ADMONITIONS:
                lines.append(f"{margin}{ADMONITIONS[name]} {argument}".rstrip())
            elif name not in CODE:
                dropped_indent = indent
        elif line.lstrip().startswith(".. ") or line.strip() == "..":
            dropped_indent = indent
        elif not OPTION.match(line):
            lines.append(re.sub(r"::$", ":", line) if line.strip() != "::" else "")
    text = "\n".join(lines).replace("``", "`")
    text = ROLE.sub(_role, text)
    text = LINK.sub(r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _role(match: re.Match[str]) -> str:
    name, shown = match.groups()
    if name == "pep":
        return f"PEP {shown}"
    return shown if name in PROSE_ROLES else f"`{shown}`"


def read_texts(sources: Path) -> Texts:
    """Read the documentation below `sources` (a Sphinx `_sources` folder) and split it.

    The documents that are held out are chosen by the hash of their path, so that the choice
    depends neither on the file system's order nor on their content.
    """
    holdable: dict[str, str] = {}
    training: dict[str, str] = {}
    for folder in (*FOLDERS, *TRAINING_ONLY_FOLDERS):
        for path in (sources / folder).glob("*.rst.txt"):
            text = plain_text(path.read_text(encoding="utf-8"))
            can_hold_out = folder not in TRAINING_ONLY_FOLDERS and 4_000 <= len(text) <= 60_000
            (holdable if can_hold_out else training)[f"{folder}/{path.name}"] = text
    if not holdable:
        raise FileNotFoundError(f"{sources} holds no folder of *.rst.txt documents")
    order = sorted(holdable, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    evaluation = _take(order, holdable, EVALUATION_BYTES)
    calibration = _take(order, holdable, CALIBRATION_BYTES)
    training |= {name: holdable[name] for name in order}
    return Texts([training[name] for name in sorted(training)], evaluation, calibration)


def _take(order: list[str], documents: Mapping[str, str], size: int) -> list[str]:
    """Take documents from the front of `order` until together they hold `size` bytes."""
    taken: list[str] = []
    while sum(len(text.encode()) for text in taken) < size:
        taken.append(documents[order.pop(0)])
    return taken


def conversations(document: str) -> Iterator[str]:
    """Yield a question and its answer for each function that `document` describes.

    They teach the models the chat template: who speaks, and where an answer ends.
    """
    questions = ("What does {} do?", "Explain {}.", "Tell me about {}.", "How do I use {}?")
    described = re.finditer(
        r"^([A-Za-z_][\w.]*)\([^\n]*\)\n\n((?: {3}[^\s>][^\n]*\n)+)", document, re.MULTILINE
    )
    for number, match in enumerate(described):
        question = questions[number % len(questions)].format(match[1])
        answer = " ".join(match[2].split())
        yield f"{USER}\n{question}{END}\n{ASSISTANT}\n{answer}{END}\n"


# --- Tokenizer -----------------------------------------------------------------------------------


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """Train a byte-level BPE with GPT-2's pre-tokenizer, which every engine implements exactly."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise RuntimeError(f"the text gave {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, tokenizer_class: str, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": True,
        "add_prefix_space": False,
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": CONTEXT,
        "pad_token": PADDING,
        "tokenizer_class": tokenizer_class,
        "unk_token": UNKNOWN,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


# --- Models --------------------------------------------------------------------------------------


def new_model(name: str) -> PreTrainedModel:
    """Return the untrained model `name`: the two differ in attention and in fused projections."""
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": SPECIAL_TOKENS.index(BOS),
        "eos_token_id": SPECIAL_TOKENS.index(EOS),
        "pad_token_id": SPECIAL_TOKENS.index(PADDING),
    }
    if name == "tiny-llama":
        return LlamaForCausalLM(
            LlamaConfig(num_key_value_heads=HEADS // 2, head_dim=HIDDEN // HEADS, **common)
        )
    return Phi3ForCausalLM(
        Phi3Config(
            num_key_value_heads=HEADS,
            original_max_position_embeddings=CONTEXT,
            sliding_window=None,
            **common,
        )
    )


# llama.cpp's converter takes a Phi-3 without a SentencePiece model only under this class, which is
# what Phi-4 (the same architecture) names.
TOKENIZER_CLASSES = {"tiny-llama": "PreTrainedTokenizerFast", "tiny-phi3": "GPT2Tokenizer"}


def encode_training_text(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    """Return one int64 tensor of token ids, documents and conversations in a seeded order."""
    pieces = [piece for text in documents for piece in (text, *conversations(text))]
    random.Random(0).shuffle(pieces)
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(pieces):
        ids += [*encoding.ids, SPECIAL_TOKENS.index(EOS)]
    return torch.tensor(ids)


def new_optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers and AdamW for every other parameter."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        in_layer = ".layers." in name and parameter.ndim == 2
        (matrices if in_layer else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(
            others,
            lr=ADAM_LEARNING_RATE,
            betas=(0.9, 0.95),
            weight_decay=WEIGHT_DECAY,
            fused=True,
        ),
    ]


def train(model: PreTrainedModel, ids: torch.Tensor, steps: int) -> None:
    """Train `model` in place on windows of `ids`, `steps` times a batch of BATCH x SEQUENCE."""
    windows = torch.Generator().manual_seed(1)
    optimizers = new_optimizers(model)

    def rate(step: int) -> float:
        decay = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps))
        return min(1.0, (step + 1) / WARMUP_STEPS) * decay

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, rate) for each in optimizers]
    started = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        starts = torch.randint(len(ids) - SEQUENCE, (BATCH,), generator=windows)
        batch = torch.stack([ids[start : start + SEQUENCE] for start in starts.tolist()])
        # A prompt comes after BOS wherever its text is from: show the models some of these.
        batch[: BATCH // 4, 0] = SPECIAL_TOKENS.index(BOS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 100 == 0 or step == steps:
            seconds = time.monotonic() - started
            print(f"step {step} loss {loss.item():.3f} after {seconds:.0f} s", flush=True)
    model.eval()


def save(model: PreTrainedModel, tokenizer: Tokenizer, name: str, folder: Path) -> None:
    """Write the model in bf16 and its tokenizer to `folder`, readable by everybody."""
    model.generation_config = GenerationConfig(
        bos_token_id=SPECIAL_TOKENS.index(BOS),
        eos_token_id=[SPECIAL_TOKENS.index(token) for token in (EOS, PADDING, END)],
        pad_token_id=SPECIAL_TOKENS.index(PADDING),
    )
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tokenizer, TOKENIZER_CLASSES[name], folder)
    for path in folder.iterdir():
        path.chmod(0o644)


# --- Figures -------------------------------------------------------------------------------------


def perplexity(model: PreTrainedModel, ids: list[int]) -> tuple[float, int]:
    """Return the perplexity by the `windows-v1` protocol and the number of tokens scored.

    The ids are cut into windows of MEASURED_WINDOW that do not overlap, each is scored alone from
    its second token on, and a last partial window is dropped.
    """
    total, scored = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ids) - MEASURED_WINDOW + 1, MEASURED_WINDOW):
            window = torch.tensor(ids[start : start + MEASURED_WINDOW])
            logits = model(input_ids=window[None]).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
            scored += MEASURED_WINDOW - 1
    return math.exp(total / scored), scored


def measure(name: str, folder: Path) -> dict[str, str | int | float]:
    """Load the model `name` below `folder` from disk as a user would and return its figures."""
    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    model = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval()

    def ids_of(text_name: str) -> list[int]:
        text = (folder / text_name).read_text(encoding="utf-8")
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [tokenizer.bos_token_id, *ids][:MEASURED_TOKENS]

    value, scored = perplexity(model, ids_of("evaluation.txt"))
    calibration, _ = perplexity(model, ids_of("calibration.txt"))
    prompt = tokenizer(SAMPLE_PROMPT, return_tensors="pt")
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What does os.remove do?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    samples = [
        tokenizer.decode(model.generate(**given, max_new_tokens=48, do_sample=False)[0])
        for given in (prompt, chat)
    ]
    return {
        "model": name,
        "parameters": model.num_parameters(),
        "bytes": (folder / name / "model.safetensors").stat().st_size,
        "perplexity": round(value, 3),
        "scoredTokens": scored,
        "perplexityOnCalibration": round(calibration, 3),
        "completion": samples[0],
        "answer": samples[1],
    }


# --- Command -------------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """Make texts and models, or only measure them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to or to measure")
    parser.add_argument("--text", type=Path, help="unpacked html/_sources folder of the package")
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(TOKENIZER_CLASSES),
        metavar="NAME",
        choices=list(TOKENIZER_CLASSES),
        help="which models (default: both)",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of each model")
    parser.add_argument("--measure", action="store_true", help="train nothing, print the figures")
    options = parser.parse_args(arguments)
    if not options.measure:
        with tempfile.TemporaryDirectory() as temporary:
            texts = read_texts(options.text or fetch_documentation(Path(temporary)))
        make(texts, options.models, options.steps, options.out)
    for name in options.models:
        print(json.dumps(measure(name, options.out), indent=2))


def make(texts: Texts, names: list[str], steps: int, out: Path) -> None:
    """Write the held-out texts and train and write each of the models in `names`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.txt").write_text("\n\n".join(texts.evaluation), encoding="utf-8")
    (out / "calibration.txt").write_text("\n\n".join(texts.calibration), encoding="utf-8")
    tokenizer = train_tokenizer(texts.training)
    ids = encode_training_text(tokenizer, texts.training)
    size = sum(len(text.encode()) for text in texts.training)
    print(f"{len(texts.training)} documents, {size} bytes, {len(ids)} training tokens", flush=True)
    for name in names:
        torch.manual_seed(0)
        model = new_model(name)
        print(f"{name}: {model.num_parameters()} parameters", flush=True)
        train(model, ids, steps)
        save(model, tokenizer, name, out / name)


if __name__ == "__main__":
    main(sys.argv[1:])
