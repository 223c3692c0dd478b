"""onnxruntime-genai's generator through its C interface, because its Python binding keeps the GIL.

With the binding, one long prompt stops every other thread until it is read, the one that answers
the liveness probe among them. ctypes releases the GIL for each call, so that generations run beside
each other and beside the event loop. Only what generates is bound here; for tokens and text, whose
calls are short, the Python binding serves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_bool, c_char_p, c_double, c_int32, c_size_t, c_void_p
from pathlib import Path
from types import TracebackType
from typing import Self


class GenAiError(RuntimeError):
    """onnxruntime-genai refused a call; the message is its own."""


def _load() -> ctypes.CDLL:
    # The package loads ONNX Runtime itself, which its library is linked to.
    import onnxruntime_genai

    folder = Path(str(onnxruntime_genai.__file__)).parent
    library = ctypes.CDLL(str(folder / "libonnxruntime-genai.so"))
    pointer = POINTER(c_void_p)
    checked: dict[str, list[type]] = {
        "OgaCreateConfig": [c_char_p, pointer],
        "OgaConfigOverlay": [c_void_p, c_char_p],
        "OgaCreateModelFromConfig": [c_void_p, pointer],
        "OgaCreateGeneratorParams": [c_void_p, pointer],
        "OgaGeneratorParamsSetSearchNumber": [c_void_p, c_char_p, c_double],
        "OgaGeneratorParamsSetSearchBool": [c_void_p, c_char_p, c_bool],
        "OgaCreateGenerator": [c_void_p, c_void_p, pointer],
        "OgaGenerator_AppendTokens": [c_void_p, POINTER(c_int32), c_size_t],
        "OgaGenerator_GenerateNextToken": [c_void_p],
        "OgaGenerator_GetNextTokens": [
            c_void_p,
            POINTER(POINTER(c_int32)),
            POINTER(c_size_t),
        ],
    }
    library.OgaResultGetError.argtypes = [c_void_p]
    library.OgaResultGetError.restype = c_char_p
    library.OgaDestroyResult.argtypes = [c_void_p]
    library.OgaDestroyResult.restype = None

    def check(result: int | None, function: object, arguments: object) -> None:
        """Every checked function returns null, or an error to be freed."""
        if result is not None:
            message = library.OgaResultGetError(result).decode(errors="replace")
            library.OgaDestroyResult(result)
            raise GenAiError(message)

    for name, types in checked.items():
        function = getattr(library, name)
        function.argtypes = types
        function.restype = c_void_p
        function.errcheck = check
    for name in ("Config", "Model", "GeneratorParams", "Generator"):
        destroy = getattr(library, f"OgaDestroy{name}")
        destroy.argtypes = [c_void_p]
        destroy.restype = None
    return library


class Model:
    """A loaded model. It lives as long as the process, so nothing frees it."""

    def __init__(self, folder: Path, overlay: str) -> None:
        """Load the folder's model; `overlay` is JSON laid over its genai_config.json.

        Raises GenAiError.
        """
        self.library = _load()
        self.handle = c_void_p()
        config = c_void_p()
        self.library.OgaCreateConfig(str(folder).encode(), byref(config))
        try:
            self.library.OgaConfigOverlay(config, overlay.encode())
            self.library.OgaCreateModelFromConfig(config, byref(self.handle))
        finally:
            self.library.OgaDestroyConfig(config)


class Generator:
    """One generation; a context manager, since it holds its share of the cache."""

    def __init__(self, model: Model, numbers: dict[str, float], switches: dict[str, bool]) -> None:
        """Prepare a generation with onnxruntime-genai's search options. Raises GenAiError."""
        self._library = model.library
        self._handle = c_void_p()
        params = c_void_p()
        self._library.OgaCreateGeneratorParams(model.handle, byref(params))
        try:
            for name, number in numbers.items():
                self._library.OgaGeneratorParamsSetSearchNumber(params, name.encode(), number)
            for name, switch in switches.items():
                self._library.OgaGeneratorParamsSetSearchBool(params, name.encode(), switch)
            self._library.OgaCreateGenerator(model.handle, params, byref(self._handle))
        finally:
            self._library.OgaDestroyGeneratorParams(params)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.OgaDestroyGenerator(self._handle)

    def append(self, tokens: Sequence[int]) -> None:
        """Read tokens. Raises GenAiError."""
        self._library.OgaGenerator_AppendTokens(
            self._handle, (c_int32 * len(tokens))(*tokens), len(tokens)
        )

    def next(self) -> int:
        """Generate one token and return it. Raises GenAiError."""
        self._library.OgaGenerator_GenerateNextToken(self._handle)
        tokens, count = POINTER(c_int32)(), c_size_t()
        self._library.OgaGenerator_GetNextTokens(self._handle, byref(tokens), byref(count))
        return int(tokens[0])
