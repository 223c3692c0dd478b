"""A fake `ollama serve`: it takes a model as Ollama does, and answers with one word a piece."""

from __future__ import annotations

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAUSE = float(os.environ.get("FAKE_PAUSE", "0.01"))
TEMPLATE = os.environ.get("FAKE_TEMPLATE", "{{ .Messages }}")
ENDS_AFTER = int(os.environ.get("FAKE_ENDS_AFTER", "0"))
"""Answers after which it exits; 0: never."""
STORE = Path(os.environ["OLLAMA_MODELS"])
WORDS = 40


class FakeOllama(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = ""
    left: list[str]
    answers = 0

    def do_GET(self) -> None:
        settings = {key: value for key, value in os.environ.items() if key.startswith("OLLAMA_")}
        # Not Ollama's answers: what a test wants to know of it.
        told = {"/api/version": settings, "/api/ps": {"left": type(self).left}}
        self._whole(200, told.get(self.path, {"path": self.path}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/create":
            self._create(body)
        elif self.path == "/api/show":
            self._whole(200, {"template": TEMPLATE})
        elif body["model"] != type(self).model:
            self._whole(404, {"error": f"model '{body['model']}' not found"})
        elif body.get("stream"):
            self._stream()
        else:
            time.sleep(PAUSE * 10)
            type(self).answers += 1
            self._whole(200, {"choices": [{"finish_reason": "length"}], "asked": body})
            if type(self).answers == ENDS_AFTER:
                os._exit(7)

    def _create(self, body: dict[str, Any]) -> None:
        ((name, digest),) = body["files"].items()
        blob = STORE / "blobs" / digest.replace(":", "-")
        if not name.endswith(".gguf") or blob.read_bytes()[:4] != b"GGUF":
            self._whole(400, {"error": "supplied file was not in GGUF format"})
            return
        type(self).model = body["model"]
        self._whole(200, {"status": "success"})

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(WORDS):
                last = number == WORDS - 1
                choice = {"text": f"{number} ", "finish_reason": "length" if last else None}
                self._piece(f"data: {json.dumps({'choices': [choice]})}\n\n")
                time.sleep(PAUSE)
            self._piece("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            type(self).left.append(self.path)

    def _piece(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def _whole(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    FakeOllama.left = []
    ThreadingHTTPServer((host, int(port)), FakeOllama).serve_forever()


if __name__ == "__main__":
    main()
