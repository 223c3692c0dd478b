"""A FAKE model hub: as much of the hub's HTTP API as huggingface_hub needs to read models.

    python -m e2e.fakes.hub --root DIR --port N

It serves ``DIR/OWNER/NAME`` as the branch ``main`` of OWNER/NAME and ``DIR/OWNER/NAME@REVISION`` as
another branch or tag. A commit is the hash of a folder's content: what changes gets a new commit,
and the old one is gone. Files named ``.gated`` or ``.private`` hold the tokens, one a line, that
may read the files of a model, or know of it at all.
"""

import argparse
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

NOTICE = "quantop's FAKE hub: a stand-in for tests, not huggingface.co"
DEFAULT_BRANCH = "main"
LFS_SUFFIXES = (".bin", ".gguf", ".model", ".onnx", ".pt", ".safetensors")
CHUNK_BYTES = 1 << 20
INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class HubError(Exception):
    """An answer that is no success, with the code by which huggingface_hub tells them apart."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True)
class HubFile:
    """A file of a model."""

    name: str
    path: Path
    size: int
    sha256: str

    @property
    def in_lfs(self) -> bool:
        """Whether the hub keeps it apart from git, under its sha256."""
        return self.name.endswith(LFS_SUFFIXES)

    @property
    def etag(self) -> str:
        """As the hub gives it: the sha256 of what is in LFS, else a git blob's hash."""
        return self.sha256 if self.in_lfs else self.blob

    @property
    def blob(self) -> str:
        """Stands for the git blob's hash."""
        return self.sha256[:40]

    def description(self) -> dict[str, object]:
        """How a model's listing shows it."""
        shown: dict[str, object] = {
            "rfilename": self.name,
            "size": self.size,
            "blobId": self.blob,
        }
        if self.in_lfs:
            shown["lfs"] = {"sha256": self.sha256, "size": self.size, "pointerSize": 134}
        return shown


@dataclass(frozen=True)
class Model:
    """A model at one commit."""

    name: str
    folder: Path

    def files(self) -> list[HubFile]:
        """All files but the fake's own markers."""
        return [
            HubFile(
                path.relative_to(self.folder).as_posix(),
                path,
                path.stat().st_size,
                _sha256(path, path.stat().st_mtime_ns, path.stat().st_size),
            )
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name not in (".gated", ".private")
        ]

    def commit(self) -> str:
        """40 hex digits that name the folder's content."""
        listing = json.dumps([[file.name, file.sha256] for file in self.files()])
        return hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()

    def tokens(self, marker: str) -> set[str] | None:
        """Who may pass a marker; None when there is none."""
        path = self.folder / marker
        return set(path.read_text().split()) if path.exists() else None


class FakeHub:
    """The server, in a thread: ``with FakeHub(root) as hub: ... hub.url``."""

    def __init__(self, root: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self.root = root
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        self.tokens: set[str | None] = set()
        """Tokens that requests came with; None for requests without one."""
        self.failures = 0
        """How many of the next requests are answered with 503."""
        self._server = ThreadingHTTPServer((host, port), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The endpoint, for HF_ENDPOINT."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self) -> None:
        """Serve until killed."""
        self._server.serve_forever()

    def model(self, name: str, revision: str, token: str | None) -> Model:
        """A model that the token may know of. Raises HubError."""
        models = list(self._revisions(name))
        if not models:
            raise self._unknown(name, token)
        allowed = models[0].tokens(".private")
        if allowed is not None and token not in allowed:
            raise self._unknown(name, token)
        for model in models:
            _, _, branch = model.folder.name.partition("@")
            if revision == (branch or DEFAULT_BRANCH):
                return model
        for model in models:
            if revision == model.commit():
                return model
        raise HubError(
            HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision} (fake hub)"
        )

    def file(self, name: str, revision: str, path: str, token: str | None) -> tuple[Model, HubFile]:
        """A file that the token may read, and its model. Raises HubError."""
        model = self.model(name, revision, token)
        allowed = model.tokens(".gated")
        if allowed is not None and token not in allowed:
            status = HTTPStatus.FORBIDDEN if token else HTTPStatus.UNAUTHORIZED
            raise HubError(status, "GatedRepo", f"Access to {name} is restricted (fake hub)")
        for file in model.files():
            if file.name == path:
                return model, file
        raise HubError(HTTPStatus.NOT_FOUND, "EntryNotFound", f"No {path} in {name} (fake hub)")

    def _revisions(self, name: str) -> Iterator[Model]:
        owner, _, model = name.partition("/")
        for folder in sorted((self.root / owner).glob(f"{model}*")):
            if folder.is_dir() and folder.name.partition("@")[0] == model:
                yield Model(name, folder)

    @staticmethod
    def _unknown(name: str, token: str | None) -> HubError:
        status = HTTPStatus.NOT_FOUND if token else HTTPStatus.UNAUTHORIZED
        return HubError(status, "RepoNotFound", f"Repository {name} not found (fake hub)")


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "quantop-fake-hub"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: ``FakeHub.requests`` has them."""

        def _answer(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            hub.tokens.add(self._token())
            if hub.failures > 0:
                hub.failures -= 1
                self._send_error(HubError(HTTPStatus.SERVICE_UNAVAILABLE, "", "Down (fake hub)"))
                return
            try:
                self._route(path)
            except HubError as error:
                self._send_error(error)

        def _route(self, path: str) -> None:
            if found := INFO.fullmatch(path):
                name, revision = found[1], unquote(found[2] or DEFAULT_BRANCH)
                self._send_info(hub.model(name, revision, self._token()))
            elif found := FILE.fullmatch(path):
                name, revision, file = found[1], unquote(found[2]), unquote(found[3])
                self._send_file(*hub.file(name, revision, file, self._token()))
            elif path == "/":
                self._send(HTTPStatus.OK, NOTICE.encode(), {"Content-Type": "text/plain"})
            else:
                raise HubError(HTTPStatus.NOT_FOUND, "", f"The fake hub has no {path}")

        def _token(self) -> str | None:
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            return token if scheme == "Bearer" else None

        def _send_info(self, model: Model) -> None:
            gated = "manual" if model.tokens(".gated") is not None else False
            info = {
                "id": model.name,
                "modelId": model.name,
                "sha": model.commit(),
                "private": model.tokens(".private") is not None,
                "gated": gated,
                "disabled": False,
                "tags": ["fake-hub"],
                "downloads": 0,
                "likes": 0,
                "siblings": [file.description() for file in model.files()],
            }
            self._send(
                HTTPStatus.OK, json.dumps(info).encode(), {"Content-Type": "application/json"}
            )

        def _send_file(self, model: Model, file: HubFile) -> None:
            headers = {"X-Repo-Commit": model.commit(), "ETag": f'"{file.etag}"'}
            # The real hub redirects from here to a content network.
            if file.in_lfs:
                headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.etag}"'}
            self._send_content(file, headers)

        def _send_content(self, file: HubFile, headers: dict[str, str]) -> None:
            start, stop = 0, file.size
            status = HTTPStatus.OK
            if asked := RANGE.fullmatch(self.headers.get("Range", "")):
                start = int(asked[1])
                stop = min(file.size, int(asked[2]) + 1) if asked[2] else file.size
                if start >= stop:
                    self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", headers)
                    return
                status = HTTPStatus.PARTIAL_CONTENT
                headers = headers | {"Content-Range": f"bytes {start}-{stop - 1}/{file.size}"}
            headers = headers | {"Accept-Ranges": "bytes"}
            self._begin(status, stop - start, headers)
            if self.command == "HEAD":
                return
            with file.path.open("rb") as content:
                content.seek(start)
                while start < stop:
                    chunk = content.read(min(CHUNK_BYTES, stop - start))
                    self.wfile.write(chunk)
                    start += len(chunk)

        def _send_error(self, error: HubError) -> None:
            headers = {"X-Error-Message": error.message}
            if error.code:
                headers["X-Error-Code"] = error.code
            self._send(error.status, json.dumps({"error": error.message}).encode(), headers)

        def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
            self._begin(status, len(body), headers)
            if self.command != "HEAD":
                self.wfile.write(body)

        def _begin(self, status: HTTPStatus, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.send_header("X-Fake", NOTICE)
            self.end_headers()

    return Handler


@lru_cache(maxsize=4096)
def _sha256(path: Path, modified: int, size: int) -> str:
    """Hashed once for as long as modification time and size stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Serve a folder until killed."""
    parser = argparse.ArgumentParser(prog="python -m e2e.fakes.hub", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder with OWNER/NAME folders")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    arguments = parser.parse_args()
    hub = FakeHub(arguments.root, arguments.host, arguments.port)
    print(f"*** {NOTICE} ***\nserving {arguments.root} at {hub.url}", file=sys.stderr, flush=True)
    hub.serve_forever()


if __name__ == "__main__":
    main()
