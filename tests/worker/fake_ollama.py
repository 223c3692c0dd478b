"""A fake `ollama serve` that only creates and deletes models, and keeps them as Ollama does."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

TEMPLATE = b"{{ .Messages }}"
CONFIG = {"model_format": "gguf", "model_family": "llama", "file_type": "Q4_K_M"}


class FakeOllama:
    """A server on a free port; `folder` is its OLLAMA_MODELS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[Path] = []
        """What each model was created of: a copy of the blob."""
        self.refuses = ""
        """What it says to every model, if anything."""
        self.leaves: bytes | None = None
        """What it leaves in the place of a template, whose digest that is not."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, {})

            def do_POST(self) -> None:
                asked = self._asked()
                if fake.refuses:
                    self._answer(500, {"error": fake.refuses})
                else:
                    fake.create(asked)
                    self._answer(200, {"status": "success"})

            def do_DELETE(self) -> None:
                fake.delete(self._asked()["model"])
                self._answer(200, {})

            def _asked(self) -> Any:
                return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

            def _answer(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def create(self, asked: Any) -> None:
        """What `POST /api/create` does to the store."""
        ((_, digest),) = asked["files"].items()
        blob = self._blob(digest)
        copy = self.folder / f"seen-{len(self.seen)}"
        copy.write_bytes(blob.read_bytes())
        self.seen.append(copy)
        layers = [
            {
                "mediaType": "application/vnd.ollama.image.model",
                "digest": digest,
                "size": blob.stat().st_size,
                "from": str(blob),
            },
            self._layer("application/vnd.ollama.image.template", TEMPLATE),
        ]
        config = self._layer(
            "application/vnd.docker.container.image.v1+json", json.dumps(CONFIG).encode()
        )
        if self.leaves is not None:
            self._blob(layers[1]["digest"]).write_bytes(self.leaves)
        path = self._manifest(asked["model"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}))

    def delete(self, name: str) -> None:
        """What `DELETE /api/delete` does to the store."""
        path = self._manifest(name)
        made = json.loads(path.read_text())
        for layer in (made["config"], *made["layers"]):
            self._blob(layer["digest"]).unlink(missing_ok=True)
        path.unlink()

    def _layer(self, media_type: str, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._blob(digest).write_bytes(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def _manifest(self, name: str) -> Path:
        return self.folder / "manifests" / "registry.ollama.ai" / "library" / name / "latest"

    def _blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.replace(":", "-")
