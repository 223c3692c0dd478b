"""A TCP proxy that lets a number of bytes through and then stands still, as networks do."""

import contextlib
import socket
import threading
from typing import Self

CHUNK_BYTES = 64 << 10


class StallingProxy:
    """Forwards connections to a local port until clients have sent ``requests`` bytes, or the
    server ``answers`` bytes."""

    def __init__(self, port: int, requests: int, answers: int = 1 << 40) -> None:
        self._target = ("127.0.0.1", port)
        self._left = {"requests": requests, "answers": answers}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.stalled = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for pair in ((client, server, "requests"), (server, client, "answers")):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, kind: str) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK_BYTES):
                if not self._spend(kind, len(chunk)):
                    return
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

    def _spend(self, kind: str, count: int) -> bool:
        with self._lock:
            self._left[kind] -= count
            if self._left[kind] < 0:
                self.stalled.set()
            return self._left[kind] >= 0
