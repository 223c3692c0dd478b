"""GGUF files by hand."""

import struct

STRING, ARRAY, UINT32 = 8, 9, 4


def string(text: str) -> bytes:
    """A string as GGUF has it."""
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_header(tokens: int = 1000) -> bytes:
    """A header with values of several types, a vocabulary and two tensors."""
    values = [
        string("general.architecture") + struct.pack("<I", STRING) + string("llama"),
        string("llama.block_count") + struct.pack("<II", UINT32, 1),
        string("llama.rope.freq_base") + struct.pack("<Id", 12, 10000.0),
        string("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", ARRAY, STRING, tokens)
        + b"".join(string(f"token {number}") for number in range(tokens)),
        string("tokenizer.ggml.scores")
        + struct.pack("<IIQ", ARRAY, 6, tokens)
        + struct.pack(f"<{tokens}f", *range(tokens)),
    ]
    tensors = [
        string(f"blk.{number}.weight") + struct.pack("<IQQIQ", 2, 64, 32, 0, number * 8192)
        for number in range(2)
    ]
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
    return b"".join((start, *values, *tensors))
