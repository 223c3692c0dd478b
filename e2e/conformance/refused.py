"""What is not offered although one may look for it, and why: told in the support matrix."""

from collections.abc import Iterator
from dataclasses import dataclass

from e2e.elsewhere import seen as elsewhere


@dataclass(frozen=True)
class Refusal:
    """Precisions of a Quantizer that it, or an engine, does not have."""

    quantizer: str
    precisions: tuple[str, ...]
    by: str
    reason: str


NO_KERNEL = "it has no kernel for a CPU and does not start"
FLOATS = ("FP8", "MXFP8", "MXFP8A16", "NVFP4", "NVFP4A16", "MXFP4", "MXFP4A16")
HERE = (
    Refusal("llm-compressor", ("W8A16", *FLOATS), "`vllm`", NO_KERNEL),
    Refusal("auto-round-gptq", ("W8A16",), "`vllm`", NO_KERNEL),
    Refusal(
        "auto-round-gptq", ("W2A16",), "`vllm`", "it reads none of 2 bits, nor on a GPU (below)"
    ),
    Refusal(
        "llm-compressor",
        ("W4A8", "FP8_DYNAMIC", "FP8_BLOCK"),
        "`vllm`",
        "it serves them on some CPUs, many times slower than W8A8",
    ),
    Refusal(
        "onnxruntime-genai",
        ("FP16", "BF16"),
        "its engine",
        "the builder writes them for a CPU, and onnxruntime-genai cannot run them there",
    ),
    *(
        Refusal(
            f"onnxruntime-genai-{provider}",
            ("FP32",),
            "the toolchain",
            "the builder writes a graph without the outputs that it lists, and says nothing of it",
        )
        for provider in ("cuda", "directml")
    ),
)


def all_refusals() -> Iterator[Refusal]:
    """Those seen here, and what an engine on other hardware said."""
    yield from HERE
    there = elsewhere.load()
    for (quantizer, precision), why in there.refused.items():
        said = why.partition(": ")[2].split(". ")[0]
        yield Refusal(quantizer, (precision,), f"{there.engine} on an {there.device}", f"“{said}”")
