"""Artifacts pulled by name, as Ollama's client does: out of a real store, by a real API server."""

import hashlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import yaml
from quantop.api.base import API_VERSION
from quantop.contract import PublishResult
from quantop_registry.gguf import HEADER_LIMIT_BYTES, copy_header
from quantop_worker.errors import RefusedError

from e2e.cluster.controlplane import ControlPlane
from tests.chart.helm import CHART, Helm
from tests.kube import Kubectl, Object
from tests.worker.fake_ollama import TEMPLATE, FakeOllama
from tests.worker.ggufs import ARRAY, gguf_header, string
from tests.worker.harness import REPOSITORY, SECRET_KEY, Bench, wait_until

MIB = 1 << 20
HEADER = gguf_header()
WEIGHTS = HEADER + os.urandom(3 * MIB + 17)
FILES = {"model.gguf": WEIGHTS, "config.json": b"{}"}


@dataclass
class Site:
    """A registry of the chart's for one namespace, the cluster and the store behind it."""

    bench: Bench
    kubectl: Kubectl
    namespace: str
    ollama: FakeOllama
    folder: Path
    port: int
    deployed: dict[str, str]
    """The environment that the chart gives it."""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, **changes: str) -> None:
        """Start it, or start it anew."""
        self.stop()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "quantop_registry"],
                env=os.environ
                | {"PYTHONPATH": str(REPOSITORY / "operator")}
                | self.deployed
                | changes,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._listens() or self.process is None)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(30) in (0, -15)
            self.process = None

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def model(self, name: str, accepted: PublishResult | None, **spec: Any) -> str:
        """A QuantizedModel as the operator leaves it; its name."""
        whole = {
            "apiVersion": API_VERSION,
            "kind": "QuantizedModel",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "source": {"uri": "hf://owner/name"},
                "quantization": {"format": "GGUF", "precision": "Q4_K_M"},
                "storage": {"storeName": self.namespace},
                **spec,
            },
        }
        self.kubectl.must("apply", "--server-side", "--filename=-", stdin=json.dumps(whole))
        condition = {
            "type": "Ready",
            "status": "False",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "QualityBelowLimit",
            "message": "spec.quality.maxPerplexityIncreasePercent is 5, but it rose by 12 %.",
        }
        status: Object = {"conditions": [condition]}
        if accepted is not None:
            summary = accepted.published
            digest = summary.manifest_digest
            status["acceptedArtifact"] = {"key": summary.key, "manifestDigest": digest}
        self.kubectl.must(
            "apply", "--server-side", "--subresource=status", "--filename=-",
            stdin=json.dumps({**whole, "spec": {}, "status": status} | {"spec": whole["spec"]}),
        )  # fmt: skip
        return name

    def get(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        """One request, whose redirects are not followed."""
        with httpx.Client(trust_env=False, timeout=60) as http:
            return http.request(method, f"{self.url}{path}", headers=headers)

    def manifest(self, name: str, tag: str = "latest") -> httpx.Response:
        return self.get(f"/v2/{self.namespace}/{name}/manifests/{tag}")

    def blob(self, name: str, digest: str, method: str = "GET", **headers: str) -> httpx.Response:
        return self.get(f"/v2/{self.namespace}/{name}/blobs/{digest}", method, **headers)

    def refusal(self, name: str, tag: str = "latest") -> tuple[int, str, str]:
        """Status, code and sentence."""
        answer = self.manifest(name, tag)
        (error,) = answer.json()["errors"]
        return answer.status_code, error["code"], error["message"]

    def pull(self, name: str, tag: str = "latest") -> dict[str, bytes]:
        """As Ollama 0.17.4 does (server/download.go): the blobs by their media types."""
        answer = self.manifest(name, tag)
        assert answer.status_code == 200, answer.text
        made = answer.json()
        content = {}
        for layer in (*made["layers"], made["config"]):
            path = f"/v2/{self.namespace}/{name}/blobs/{layer['digest']}"
            content[layer["mediaType"]] = self._download(path)
            assert len(content[layer["mediaType"]]) == layer["size"]
            assert f"sha256:{sha256(content[layer['mediaType']])}" == layer["digest"]
        return content

    def _download(self, path: str) -> bytes:
        total = int(self.get(path, "HEAD").headers["Content-Length"])
        with (
            httpx.Client(trust_env=False, timeout=60) as http,
            http.stream("GET", f"{self.url}{path}") as answer,
        ):
            location = answer.headers["Location"]
            direct = urljoin(f"{self.url}{path}", location)
            if answer.status_code == 307:
                # One to the same host would be followed, and the header missed.
                assert urlsplit(direct).hostname != urlsplit(self.url).hostname
            else:
                assert answer.status_code == 200
        parts = b""
        step = MIB
        for start in range(0, total, step):
            asked = f"bytes={start}-{min(start + step, total) - 1}"
            part = httpx.get(direct, headers={"Range": asked}, trust_env=False)
            assert part.status_code == 206, part.text
            parts += part.content
        return parts


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(
    bench: Bench,
    kubectl: Kubectl,
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
) -> Iterator[Site]:
    """What the chart makes of it: its account with its rights, and its environment. The store is
    reached by another name than the registry's."""
    values = {
        "registry": {
            "enabled": True,
            "storeName": namespace,
            "namespaces": [namespace],
            "publicEndpoint": bench.server.url.replace("127.0.0.1", "localhost"),
        }
    }
    rendered = Helm()("template", namespace, str(CHART), f"--namespace={namespace}", values=values)
    assert rendered.ok, rendered.text
    objects = [each for each in yaml.safe_load_all(rendered.text) if each]
    name = f"{namespace}-quantop-registry"
    rights = [o for o in objects if o["metadata"]["name"] in (name, f"{name}-store")]
    deployment = next(o for o in rights if o["kind"] == "Deployment")
    rights = [o for o in rights if "Role" in o["kind"] or o["kind"] == "ServiceAccount"]
    assert len(rights) == 5
    store = {
        "apiVersion": API_VERSION,
        "kind": "ModelStore",
        "metadata": {"name": namespace},
        "spec": {
            "s3": {
                "endpoint": bench.store.endpoint,
                "bucket": bench.store.bucket,
                "prefix": bench.store.prefix,
            }
        },
    }
    listed = {"apiVersion": "v1", "kind": "List", "items": [*rights, store]}
    kubectl.must("apply", "--server-side", "--filename=-", stdin=json.dumps(listed))
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(
        kubectl.must("create", "token", name, f"--namespace={namespace}")
    )
    (account / "ca.crt").write_bytes(control_plane.layout.authority.certificate.read_bytes())
    folder = tmp_path / "models"
    (folder / "blobs").mkdir(parents=True)
    ollama = FakeOllama(folder)
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    server = urlsplit(control_plane.layout.server)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    deployed = {each["name"]: each["value"] for each in container["env"]} | {
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "QUANTOP_REGISTRY_SERVICE_ACCOUNT": str(account),
        "QUANTOP_REGISTRY_OLLAMA": ollama.url,
        "QUANTOP_REGISTRY_PORT": str(port),
        "OLLAMA_MODELS": str(folder),
    }
    made = Site(bench.resolved(), kubectl, namespace, ollama, tmp_path, port, deployed)
    made.start()
    yield made
    made.stop()
    ollama.stop()
    assert SECRET_KEY not in made.log
    assert "Traceback" not in made.log


WEIGHTS_TYPE = "application/vnd.ollama.image.model"
TEMPLATE_TYPE = "application/vnd.ollama.image.template"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"


def test_a_model_is_pulled_by_its_name(site: Site) -> None:
    name = site.model("llama", site.bench.convert(FILES))
    pulled = site.pull(name)
    assert pulled[WEIGHTS_TYPE] == WEIGHTS
    assert pulled[TEMPLATE_TYPE] == TEMPLATE
    assert set(pulled) == {WEIGHTS_TYPE, TEMPLATE_TYPE, CONFIG_TYPE}
    assert str(site.folder) not in site.manifest(name).text, "where it was made is nobody's concern"


def test_weights_come_from_the_store_at_an_address_that_is_signed(site: Site) -> None:
    name = site.model("llama", site.bench.convert(FILES))
    answer = site.blob(name, f"sha256:{sha256(WEIGHTS)}")
    assert answer.status_code == 307
    location = urlsplit(answer.headers["Location"])
    assert (location.hostname, location.port) == ("localhost", site.bench.server.port)
    assert "X-Amz-Expires=21600" in location.query
    assert httpx.get(answer.headers["Location"], trust_env=False).content == WEIGHTS
    unsigned = httpx.get(answer.headers["Location"].partition("?")[0], trust_env=False)
    assert unsigned.status_code == 403


def test_weights_come_through_the_registry_where_clients_do_not_reach_the_store(
    site: Site,
) -> None:
    site.start(QUANTOP_REGISTRY_WEIGHTS="Proxy")
    name = site.model("llama", site.bench.convert(FILES))
    assert site.pull(name)[WEIGHTS_TYPE] == WEIGHTS
    answer = site.blob(name, f"sha256:{sha256(WEIGHTS)}", Range="bytes=5-")
    assert (answer.status_code, answer.content) == (206, WEIGHTS[5:])
    assert answer.headers["Content-Range"] == f"bytes 5-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"
    beyond = site.blob(name, f"sha256:{sha256(WEIGHTS)}", Range=f"bytes={len(WEIGHTS)}-")
    assert beyond.status_code == 416


def test_ollama_is_given_the_header_and_a_hole_and_nothing_is_left(site: Site) -> None:
    name = site.model("llama", site.bench.convert(FILES))
    assert site.manifest(name).content == site.manifest(name, "q4_k_m").content
    (seen,) = site.ollama.seen
    content = seen.read_bytes()
    assert len(content) == len(WEIGHTS)
    assert content.startswith(HEADER)
    assert content.endswith(bytes(MIB))
    assert [path for path in site.ollama.folder.rglob("sha256-*") if path.is_file()] == []


def test_tags_are_the_precision_the_key_and_latest(site: Site) -> None:
    made = site.bench.convert(FILES)
    name = site.model("llama", made)
    key = made.published.key
    latest = site.manifest(name)
    digest = latest.headers["Docker-Content-Digest"]
    assert digest == f"sha256:{sha256(latest.content)}"
    for tag in ("Q4_K_M", "q4_k_m", key, digest):
        assert site.manifest(name, tag).content == latest.content
    listed = site.get(f"/v2/{site.namespace}/{name}/tags/list").json()
    assert listed == {"name": f"{site.namespace}/{name}", "tags": sorted(["Q4_K_M", key, "latest"])}
    status, code, message = site.refusal(name, "Q8_0")
    assert (status, code) == (404, "MANIFEST_UNKNOWN")
    assert f"{name} is Q4_K_M now" in message
    assert site.refusal(name, "0" * 64)[:2] == (404, "MANIFEST_UNKNOWN")


def test_what_the_gate_refused_cannot_be_pulled_though_the_store_has_it(site: Site) -> None:
    made = site.bench.convert(FILES)
    name = site.model("refused", None)
    status, code, message = site.refusal(name, made.published.key)
    assert (status, code) == (403, "DENIED")
    assert message.endswith("but it rose by 12 %. (QualityBelowLimit)")
    assert site.blob(name, f"sha256:{sha256(WEIGHTS)}").status_code == 403


def test_what_ollama_does_not_read_is_refused_with_the_reason(site: Site) -> None:
    other = site.bench.task.recipe.model_copy(update={"format": "ONNX", "precision": "INT4"})
    onnx = site.bench.with_task(recipe=other).resolved().convert({"model.onnx": b"onnx"})
    status, code, message = site.refusal(site.model("onnx", onnx))
    assert (status, code) == (403, "DENIED")
    assert "is a ONNX artifact, and Ollama reads GGUF" in message


def test_split_files_are_refused_with_the_reason(site: Site) -> None:
    parts = {f"model-0000{number}-of-00002.gguf": WEIGHTS for number in (1, 2)}
    status, code, message = site.refusal(site.model("split", site.bench.convert(parts)))
    assert (status, code) == (403, "DENIED")
    assert "has 2 GGUF files" in message
    assert "spec.quantization.maxFileSize" in message


def test_names_that_are_none_are_unknown(site: Site) -> None:
    made = site.bench.convert(FILES)
    site.model("elsewhere", made, storage={"storeName": "other"})
    status, code, message = site.refusal("elsewhere")
    assert (status, code) == (404, "NAME_UNKNOWN")
    assert "is in ModelStore other" in message
    for name in ("nobody", "No_Name", "..", "%2e%2e%2f"):
        answer = site.manifest(name)
        assert answer.status_code == 404, name
        assert answer.json()["errors"][0]["code"] in ("NAME_UNKNOWN", "UNSUPPORTED")


def test_models_of_other_namespaces_than_the_charts_are_unknown(site: Site) -> None:
    site.model("llama", site.bench.convert(FILES))
    binding = f"{site.namespace}-quantop-registry"
    site.kubectl.must("delete", "rolebinding", binding, f"--namespace={site.namespace}")
    wait_until(lambda: site.manifest("llama").status_code != 200)
    assert site.refusal("llama")[:2] == (404, "NAME_UNKNOWN")


def test_a_blob_of_before_is_unknown_after_the_artifact_has_changed(site: Site) -> None:
    name = site.model("llama", site.bench.convert(FILES))
    assert site.manifest(name).status_code == 200
    recipe = site.bench.task.recipe.model_copy(update={"precision": "Q8_0"})
    later = site.bench.with_task(recipe=recipe).resolved().in_folder("later")
    changed = WEIGHTS[:-1] + b"!"
    site.model(name, later.convert({"model.gguf": changed}))
    answer = site.blob(name, f"sha256:{sha256(WEIGHTS)}")
    assert answer.status_code == 404
    (error,) = answer.json()["errors"]
    assert error["code"] == "BLOB_UNKNOWN"
    assert "pull it again" in error["message"]
    assert site.pull(name, "Q8_0")[WEIGHTS_TYPE] == changed


def test_a_manifest_that_was_replaced_in_the_store_is_refused(site: Site) -> None:
    made = site.bench.convert(FILES)
    name = site.model("llama", made)
    key = next(each for each in site.bench.objects("models/") if each.endswith("manifest.json"))
    original = site.bench.client.get_object(Bucket=site.bench.bucket, Key=key)["Body"].read()
    site.bench.put(key, original + b" ")
    status, code, message = site.refusal(name)
    assert (status, code) == (500, "UNKNOWN")
    assert "it was replaced after it was published. (ManifestMismatch)" in message
    site.bench.client.delete_object(Bucket=site.bench.bucket, Key=key)
    assert site.refusal(name)[:2] == (503, "UNAVAILABLE")


def test_a_file_that_is_no_gguf_is_refused(site: Site) -> None:
    broken = site.bench.convert({"model.gguf": HEADER[: len(HEADER) // 2]})
    status, _, message = site.refusal(site.model("broken", broken))
    assert status == 500
    assert "it ends within its header. (ArtifactUnreadable)" in message


def test_what_ollama_says_is_handed_on(site: Site) -> None:
    name = site.model("llama", site.bench.convert(FILES))
    site.ollama.refuses = "unsupported architecture"
    status, _, message = site.refusal(name)
    assert status == 500
    assert "unsupported architecture" in message
    site.ollama.refuses = ""
    assert site.manifest(name).status_code == 200, "a failure is not remembered"


def test_nothing_but_what_ollama_made_leaves_the_registry(site: Site) -> None:
    """The container that reads files from elsewhere shares a folder with the one that has keys."""
    name = site.model("llama", site.bench.convert(FILES))
    site.ollama.leaves = b"the registry's token"
    status, _, message = site.refusal(name)
    assert status == 500
    assert "Ollama left another blob" in message


def test_without_ollama_it_is_not_ready(site: Site) -> None:
    name = site.model("llama", site.bench.convert(FILES))
    assert site.get("/readyz").status_code == 200
    site.ollama.stop()
    assert site.get("/readyz").status_code == 503
    assert site.get("/healthz").status_code == 200, "to be restarted would not help"
    status, code, message = site.refusal(name)
    assert (status, code) == (503, "UNAVAILABLE")
    assert "Ollama, which runs beside the registry, does not answer" in message


def test_wrong_keys_are_said(site: Site) -> None:
    name = site.model("llama", site.bench.convert(FILES))
    site.start(STORE_AWS_SECRET_ACCESS_KEY="wrong")
    status, _, message = site.refusal(name)
    assert status == 500
    assert "(AccessDenied)" in message


def test_nothing_is_written(site: Site) -> None:
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        for path in ("manifests/latest", f"blobs/sha256:{'0' * 64}"):
            answer = site.get(f"/v2/{site.namespace}/llama/{path}", method)
            assert answer.status_code == 405
            assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"


def test_no_more_than_the_header_is_fetched() -> None:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(HEADER), 777):
            yield HEADER[start : start + 777]
        raise AssertionError("the weights are asked for")

    target = io.BytesIO()
    copy_header(chunks(), target)
    assert target.getvalue() == HEADER


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "ends within"),
        (b"PK" + HEADER[2:], "does not begin"),
        (HEADER[:4] + b"\x07" + HEADER[5:], "does not begin"),
        (HEADER[:-1], "ends within"),
        (HEADER.replace(b"architecture\x08", b"architecture\x63"), "unknown type 99"),
    ],
)
def test_a_header_that_is_none_is_refused(content: bytes, what: str) -> None:
    with pytest.raises(RefusedError, match=what):
        copy_header(iter([content, b""]), io.BytesIO())


def test_a_header_has_a_limit() -> None:
    endless = (
        HEADER[:16] + struct.pack("<Q", 1) + string("x") + struct.pack("<IIQ", ARRAY, 4, 1 << 60)
    )
    chunks = (endless, *[bytes(MIB)] * ((HEADER_LIMIT_BYTES >> 20) + 1))
    with pytest.raises(RefusedError, match="beyond 128 MiB"):
        copy_header(iter(chunks), io.BytesIO())
