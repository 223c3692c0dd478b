"""Thin adapters between the operator's contract and real quantization toolchains.

Every toolchain is a module run as `python -m quantop_adapters.<toolchain> quantize|evaluate`. The
contract (environment in, files and a termination message out) lives in `stage`; what all of them
measure alike lives in `perplexity`, `coverage` and `checkpoint`; a toolchain's module holds only
what is particular to it. Heavy libraries are imported inside functions: a refusal should cost
milliseconds, and the pure parts are tested without them.
"""
