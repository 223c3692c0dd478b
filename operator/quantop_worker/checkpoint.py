"""What a checkpoint must look like: which of its files are read, and what is refused."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from quantop_worker.errors import RefusedError
from quantop_worker.sources.base import FIELD, Source, SourceFile

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
GRAPH = "saved_model.pb"
VARIABLES = "variables/variables.index"
VARIABLES_DATA = re.compile(r"variables/variables\.data-\d{5}-of-(\d{5})")
TOKENIZER = "tokenizer.json"
ASSETS = "assets/"
SAFETENSORS, SAVED_MODEL = "Safetensors", "SavedModel"
KINDS: Mapping[str, tuple[str, ...]] = {SAFETENSORS: (SINGLE, INDEX), SAVED_MODEL: (GRAPH,)}
"""What a model is saved as, and the files that tell it: the first that a quantizer reads counts."""
PICKLES = (".bin", ".ckpt", ".h5", ".msgpack", ".pickle", ".pkl", ".pt", ".pth")
"""Weights in formats that run code when they are read, or that nothing here reads."""
COMPANIONS = (".bpe", ".jinja", ".json", ".md", ".model", ".tiktoken", ".txt")
"""What is fetched beside the weights: configuration, tokenizers, templates."""
COMPANION_NAMES = ("LICENCE", "LICENSE", "NOTICE", "README")
CONFIG_LIMIT_BYTES = 4 << 20
INDEX_LIMIT_BYTES = 64 << 20
MESSAGE_LIMIT_BYTES = 2 << 30
"""A message of protobuf's is smaller."""
HEADER_LIMIT_BYTES = 25_000_000
HEADER_GUESS_BYTES = 64 << 10
"""Read at first: most headers are smaller."""
PATH_LIMIT = 512
FILES_LIMIT = 10_000
READERS = 8
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that a conversion can read; ``files`` are those it reads."""

    identity: str
    files: tuple[SourceFile, ...]
    size_bytes: int
    architecture: str


def inspect(
    source: Source,
    architectures: Sequence[str],
    max_bytes: int,
    source_files: Sequence[str] = (SAFETENSORS,),
) -> Checkpoint:
    """Choose the files of a checkpoint and check them, reading only what is small.

    Raises RefusedError with the reason SourceNotFound, InvalidSource, PathEscapeRefused,
    RemoteCodeRefused, UnsupportedArchitecture, UnsupportedSource, SavedModelRefused, PickleRefused
    or SourceTooLarge."""
    listed = visible(source)
    kind = _kind(source, listed, source_files)
    if kind == SAVED_MODEL:
        _check_saved_model(source, listed)
    config = _read_object(source, listed, CONFIG, CONFIG_LIMIT_BYTES)
    architecture = _architecture(source, config, architectures)
    shards = _variables(source, listed) if kind == SAVED_MODEL else _shards(source, listed)
    weights = [listed[name] for name in sorted(shards)]
    companions = [file for file in listed.values() if _is_companion(file.path)]
    files = tuple(sorted([*weights, *companions], key=lambda file: file.path))
    size = sum(file.size for file in files)
    if size > max_bytes:
        raise RefusedError(
            "SourceTooLarge",
            f"{FIELD} is {source.uri}, whose files come to {size} bytes, more than the {max_bytes} "
            f"that the operator allows: choose a smaller model or raise the operator's limit.",
        )
    _refuse_code(source, listed, companions)
    check = _check_fetched if kind == SAVED_MODEL else _check_weights
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda file: check(source, file, shards[file.path]), weights))
    return Checkpoint(source.identity(files), files, size, architecture)


def visible(source: Source) -> dict[str, SourceFile]:
    """What a folder holds, by its path; without hidden files. Raises RefusedError
    PathEscapeRefused, the folder's own reason when it is empty, or InvalidSource."""
    files = source.files()
    for file in files:
        _check_path(source, file.path)
    shown = {file.path: file for file in files if not _hidden(file.path)}
    purpose = source.purpose
    if not shown:
        raise RefusedError(
            purpose.missing,
            f"{purpose.field} is {source.uri}, where there are no files: correct the address.",
        )
    if len(shown) > FILES_LIMIT:
        raise _invalid(source, f"has {len(shown)} files: name a folder with less in it")
    return shown


def _check_path(source: Source, path: str) -> None:
    parts = path.split("/")
    plain = path.isprintable() and "\\" not in path and len(path) <= PATH_LIMIT
    if not plain or any(part in ("", ".", "..") for part in parts):
        raise RefusedError(
            "PathEscapeRefused",
            f"{source.purpose.field} is {source.uri}, which has a file named {path[:80]!r}: names "
            f"must stay inside the folder and be printable.",
        )


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _read_object(
    source: Source, listed: dict[str, SourceFile], name: str, limit: int
) -> dict[str, Any]:
    content = _read_json(source, listed, name, limit)
    if not isinstance(content, dict):
        raise _no_object(source, name)
    return content


def _no_object(source: Source, name: str) -> RefusedError:
    return _invalid(source, f"has a {name} that is no JSON object")


def _read_json(source: Source, listed: dict[str, SourceFile], name: str, limit: int) -> Any:
    """The content of a file; None when it is no JSON."""
    file = listed.get(name)
    if file is None:
        raise _invalid(source, f"has no {name}: name the folder of a Hugging Face checkpoint")
    if file.size > limit:
        raise _invalid(source, f"has a {name} of {file.size} bytes, more than {limit}")
    try:
        return json.loads(source.read(file, 0, file.size)) if file.size else None
    except (ValueError, RecursionError):
        return None


def _architecture(source: Source, config: dict[str, Any], allowed: Sequence[str]) -> str:
    found = config.get("architectures")
    if not isinstance(found, list) or not found or not isinstance(found[0], str):
        raise _invalid(source, "has a config.json that names no architectures")
    architecture = found[0][:256]
    if allowed and architecture not in allowed:
        raise RefusedError(
            "UnsupportedArchitecture",
            f"{FIELD} is {source.uri}, a {architecture}, which the quantizer does not read (it "
            f"reads {_some(allowed)}): choose another format or spec.quantization.quantizerName.",
        )
    return architecture


def _shards(source: Source, listed: dict[str, SourceFile]) -> dict[str, set[str]]:
    """The weights' files and the tensors that the index promises in each."""
    if INDEX in listed:
        return _indexed(source, listed)
    if SINGLE in listed:
        return {SINGLE: set()}
    pickles = [name for name in listed if name.endswith(PICKLES)]
    if pickles:
        raise RefusedError(
            "PickleRefused",
            f"{FIELD} is {source.uri}, whose weights are only there as {_some(pickles)}, which can "
            f"run code when read: convert them to safetensors.",
        )
    others = [name for name in listed if name.endswith(".safetensors")]
    found = f", only {_some(others)}" if others else ""
    raise _invalid(source, f"has neither {SINGLE} nor {INDEX}{found}")


def _indexed(source: Source, listed: dict[str, SourceFile]) -> dict[str, set[str]]:
    tensors = _read_object(source, listed, INDEX, INDEX_LIMIT_BYTES).get("weight_map")
    if not isinstance(tensors, dict) or not tensors:
        raise _invalid(source, f"has an {INDEX} without a weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, name in tensors.items():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise _invalid(source, f"has an {INDEX} that names {str(name)[:80]!r} as weights")
        shards.setdefault(name, set()).add(tensor)
    for name in shards:
        _check_path(source, name)
    absent = sorted(shards.keys() - listed.keys())
    if absent:
        raise _invalid(source, f"lacks {_some(absent)}, which its {INDEX} names: complete it")
    return shards


def _kind(source: Source, listed: dict[str, SourceFile], readable: Sequence[str]) -> str:
    """What the model is saved as, of what the quantizer reads."""
    there = [kind for kind, names in KINDS.items() if any(name in listed for name in names)]
    for kind in there:
        if kind in readable:
            return kind
    if there:
        raise RefusedError(
            "UnsupportedSource",
            f"{FIELD} is {source.uri}, a model saved as {there[0]}, which the quantizer does not "
            f"read (it reads {_some(readable)}): name another in spec.quantization.quantizerName; "
            f"spec.sourceFiles of a Quantizer says what it reads.",
        )
    return readable[0]


def _check_saved_model(source: Source, listed: dict[str, SourceFile]) -> None:
    """A SavedModel of TensorFlow's with what it does not say itself, and nothing that its graph
    would read."""
    absent = [name for name in (GRAPH, VARIABLES, CONFIG, TOKENIZER) if name not in listed]
    if absent:
        raise _invalid(
            source,
            f"lacks {_some(absent)}: a TensorFlow SavedModel is read with the model's {CONFIG} and "
            f"{TOKENIZER} beside its {GRAPH}",
        )
    assets = [name for name in listed if name.startswith(ASSETS)]
    if assets:
        raise RefusedError(
            "SavedModelRefused",
            f"{FIELD} is {source.uri}, whose SavedModel has {_some(assets)} for its graph to read: "
            f"save one that takes token ids, with its {TOKENIZER} beside it.",
        )
    if listed[GRAPH].size >= MESSAGE_LIMIT_BYTES:
        raise _invalid(source, f"has a {GRAPH} of {listed[GRAPH].size} bytes")


def _variables(source: Source, listed: dict[str, SourceFile]) -> dict[str, set[str]]:
    """The graph's file and those of the variables, by which nothing is promised."""
    data = {name: found[1] for name in listed if (found := VARIABLES_DATA.fullmatch(name))}
    counts = set(data.values())
    if len(counts) != 1 or len(data) != int(counts.pop()):
        raise _invalid(source, f"has not all files of the variables, only {_some(data) or 'none'}")
    return {name: set() for name in (GRAPH, VARIABLES, *data)}


def _is_companion(path: str) -> bool:
    name = PurePosixPath(path).name
    if name.endswith(".index.json"):
        return path == INDEX
    return name.lower().endswith(COMPANIONS) or name.split(".")[0].upper() in COMPANION_NAMES


def _refuse_code(
    source: Source, listed: dict[str, SourceFile], companions: Iterable[SourceFile]
) -> None:
    for file in companions:
        if not PurePosixPath(file.path).name.endswith("config.json"):
            continue
        content = _read_json(source, listed, file.path, CONFIG_LIMIT_BYTES)
        # Checkpoints of sentence-transformers have a data_config.json that is a list.
        if not isinstance(content, dict | list):
            raise _no_object(source, file.path)
        if isinstance(content, dict) and content.get("auto_map"):
            raise RefusedError(
                "RemoteCodeRefused",
                f"{FIELD} is {source.uri}, whose {file.path} asks by auto_map for code of its own, "
                f"which is never run: use a model whose architecture the toolchain knows, without "
                f"auto_map.",
            )


def _check_fetched(source: Source, file: SourceFile, _: set[str]) -> None:
    """A file that is there, and not something in its place."""
    _refuse_pointer(source, file, source.read(file, 0, min(file.size, len(LFS_POINTER))))


def _refuse_pointer(source: Source, file: SourceFile, start: bytes) -> None:
    if start.startswith(LFS_POINTER):
        raise _broken(source, file, "is a git-LFS pointer: fetch the file itself by `git lfs pull`")


def _check_weights(source: Source, file: SourceFile, promised: set[str]) -> None:
    """A safetensors file whose header fits its size and holds what the index promises."""
    if file.size < 8:
        raise _broken(source, file, "is too small")
    start = source.read(file, 0, min(file.size, HEADER_GUESS_BYTES))
    _refuse_pointer(source, file, start)
    length = int.from_bytes(start[:8], "little")
    if length > HEADER_LIMIT_BYTES:
        raise _broken(source, file, f"claims a header of {length} bytes")
    if 8 + length > file.size:
        raise _broken(source, file, "ends within its header")
    header = start[8 : 8 + length]
    if len(header) < length:
        header += source.read(file, len(start), 8 + length)
    tensors = _tensors(header)
    if tensors is None:
        raise _broken(source, file, "has no readable header")
    end = max((stop for _, stop in tensors.values()), default=0)
    if 8 + length + end != file.size:
        raise _broken(
            source, file, f"has {file.size} bytes where its header promises {8 + length + end}"
        )
    absent = sorted(promised - tensors.keys())
    if absent:
        raise _broken(source, file, f"lacks {_some(absent)}, which the {INDEX} places there")


def _tensors(header: bytes) -> dict[str, tuple[int, int]] | None:
    """Names and offsets of the tensors; None when the header is not one."""
    try:
        content = json.loads(header)
        return {
            name: _offsets(entry["data_offsets"])
            for name, entry in content.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _offsets(value: Any) -> tuple[int, int]:
    start, stop = value
    if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop):
        raise ValueError
    return start, stop


def _broken(source: Source, file: SourceFile, what: str) -> RefusedError:
    return _invalid(source, f"has a {file.path} that {what}")


def _invalid(source: Source, what: str) -> RefusedError:
    return RefusedError("InvalidSource", f"{source.purpose.field} is {source.uri}, which {what}.")


def _some(names: Iterable[str], limit: int = 3) -> str:
    """A few of many names, for a sentence."""
    ordered = list(names)
    shown = ", ".join(name[:80] for name in ordered[:limit])
    more = len(ordered) - limit
    return f"{shown} and {more} more" if more > 0 else shown
