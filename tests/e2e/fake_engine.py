#!/usr/bin/env python3
"""A fake of an engine on a GPU, which cannot be had here: vLLM's API with one token for each byte.

    fake_engine.py PORT MODEL FAULT

FAULT: ``none``, ``worse`` (its probabilities are too low), ``moody`` (it answers differently each
time), ``cut`` (SIGTERM cuts what it answers), ``dumb`` (it has no gauges) or ``broken``.
"""

import itertools
import json
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT, MODEL, FAULT = (*sys.argv[1:], "none")[:3]
LOSS = {"worse": 2.0}.get(FAULT, 1.0)
ANSWERS = itertools.count()
METRICS = "\nvllm:num_requests_running{} 0\nvllm:num_requests_waiting{} 0\n"


class Handler(BaseHTTPRequestHandler):
    """Requests."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def send(self, content: str) -> None:
        """An answer that is whole."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content.encode())

    def do_GET(self) -> None:
        """The models, the gauges, and that it is up."""
        if self.path == "/metrics":
            self.send("" if FAULT == "dumb" else METRICS)
        else:
            self.send(json.dumps({"data": [{"id": MODEL}]}))

    def do_POST(self) -> None:
        """Tokens, probabilities and texts."""
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/tokenize":
            return self.send(json.dumps({"tokens": list(body["prompt"].encode())}))
        if body.get("stream"):
            return self.stream()
        scored = [None, *({str(each): {"logprob": -LOSS}} for each in body["prompt"][1:])]
        text = f"answer {next(ANSWERS)}" if FAULT == "moody" else "answer"
        return self.send(json.dumps({"choices": [{"text": text, "prompt_logprobs": scored}]}))

    def stream(self) -> None:
        """An answer that takes a second."""
        self.send_response(200)
        self.end_headers()
        for _ in range(20):
            self.wfile.write(b"data: {}\n\n")
            self.wfile.flush()
            time.sleep(0.05)
        self.wfile.write(b"data: [DONE]\n\n")


if FAULT == "broken":
    sys.exit("ValueError: no kernel for it")
server = ThreadingHTTPServer(("127.0.0.1", int(PORT)), Handler)
server.daemon_threads = FAULT == "cut"
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
