"""A fake engine: a real HTTP server that speaks the protocols, and counts instead of thinking.

``python -m tests.worker.fake_engine MODE`` prints its port. It takes FIRST_SECONDS to the first
token and EACH_SECONDS to each that follows.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FIRST_SECONDS = 0.15
EACH_SECONDS = 0.01
MODEL = "tiny"
BALLAST_BYTES = 64 * 2**20
"""Memory that the process takes, so that its peak can be told from another's."""


class Engine(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    mode = ""
    cached: set[str] = set()  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.mode == "busy":
            self._json(503, {"error": "no room"})
        elif self.mode == "refuses":
            self._json(404, {"error": f"no route {self.path}"})
        elif self.path == "/v1/completions":
            self._complete(body)
        elif self.path == f"/v2/models/{MODEL}/infer":
            self._infer(body)
        elif self.path == "/v1/embeddings":
            self._embed(body)
        else:
            self._json(404, {"error": f"no route {self.path}"})

    def _complete(self, body: dict[str, Any]) -> None:
        assert (body["model"], body["temperature"]) == (MODEL, 0)
        assert body["stream"] is True
        length = body["max_tokens"] if body["ignore_eos"] else 3
        # As engines do: what begins like an earlier request is not read again.
        beginning = body["prompt"][:40]
        if beginning not in self.cached:
            time.sleep(FIRST_SECONDS)
        self.cached.add(beginning)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(0 if self.mode == "silent" else length):
            if number:
                time.sleep(EACH_SECONDS)
            if self.mode == "breaks" and number == 2:
                self.close_connection = True
                return
            self._event({"choices": [{"text": f"{number} "}]})
        if self.mode != "uncounted":
            words = len(body["prompt"].split())
            usage = {"prompt_tokens": words, "completion_tokens": length}
            self._event({"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _infer(self, body: dict[str, Any]) -> None:
        (tensor,) = body["inputs"]
        assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("text", "BYTES", [1])
        time.sleep(FIRST_SECONDS)
        outputs = [{"name": "embedding", "shape": [1, 1], "data": [len(tensor["data"][0])]}]
        self._json(200, {"model_name": MODEL, "outputs": outputs})

    def _embed(self, body: dict[str, Any]) -> None:
        assert body["model"] == MODEL
        time.sleep(FIRST_SECONDS)
        self._json(200, {"data": [{"index": 0, "embedding": [len(body["input"])]}]})

    def _event(self, content: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(content)}\n\n".encode())

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def _json(self, code: int, content: dict[str, Any]) -> None:
        said = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Engine.mode = sys.argv[1]
    ballast = bytearray(BALLAST_BYTES)
    ballast[::4096] = b"x" * (BALLAST_BYTES // 4096)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    print(server.server_address[1], flush=True)
    server.serve_forever()
