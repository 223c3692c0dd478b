"""Models pulled by name from the chart's registry, by one stock Ollama server for all of them.

Ollama's image is not among those that the demo builds: `make images ALL=1`.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from e2e.ask import ask_in_chat
from e2e.install import CHART, READER_SECRET, RELEASE, SYSTEM_NAMESPACE
from e2e.kubectl import Object, conditions
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until
from e2e.store import SOURCES_BUCKET, text_uri

PORT = 11434
NO_TEMPLATE = "{{ .Prompt }}"


@dataclass(frozen=True)
class Ollama:
    """`ollama serve` as it comes, in a pod that loads one model at a time."""

    url: str
    registry: str
    """Host of the registry."""
    namespace: str

    def name(self, model: str, tag: str) -> str:
        """What Ollama calls a model of the team's."""
        return f"{self.registry}/{self.namespace}/{model}:{tag}"

    def post(self, path: str, **body: Any) -> Any:
        """Ask for one answer."""
        answer = httpx.post(
            f"{self.url}{path}", json={"stream": False, **body}, timeout=300, trust_env=False
        )
        return answer.json()

    def pull(self, model: str, tag: str) -> Any:
        """`ollama pull --insecure`: there is no TLS inside the cluster."""
        return self.post("/api/pull", model=self.name(model, tag), insecure=True)

    def loaded(self) -> list[str]:
        """The models that are in memory."""
        told = httpx.get(f"{self.url}/api/ps", timeout=60, trust_env=False).json()
        return [each["name"] for each in told["models"]]


@pytest.fixture
def ollama(team: Team, request: pytest.FixtureRequest) -> Iterator[Ollama]:
    """The registry as the chart renders it, for the team's namespace and in it, and a server.
    The parameter is how weights get to clients."""
    installed = helm("get", "values", RELEASE, f"--namespace={SYSTEM_NAMESPACE}", "--output=json")
    values = json.loads(installed) | {
        "registry": {
            "enabled": True,
            "readerSecretName": READER_SECRET,
            "namespaces": [team.namespace],
            "weights": request.param,
        }
    }
    rendered = helm(
        "template", team.namespace, str(CHART), f"--namespace={team.namespace}",
        "--show-only=templates/registry.yaml", "--values=-", stdin=json.dumps(values),
    )  # fmt: skip
    objects = [each for each in yaml.safe_load_all(rendered) if each]
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    (image,) = [
        container["image"]
        for container in deployment["spec"]["template"]["spec"]["containers"]
        if container["name"] == "ollama"
    ]
    try:
        team.kubectl.apply(*objects, server(team.namespace, image))
        name = deployment["metadata"]["name"]
        rollout = ("rollout", "status", f"deployment/{name}", f"--namespace={team.namespace}")
        team.kubectl.run(*rollout, timeout=300)
        ip = until("Ollama listens", lambda: address(team), 300)
        yield Ollama(f"http://{ip}:{PORT}", f"{name}.{team.namespace}.svc", team.namespace)
    finally:
        for each in objects:
            if each["kind"].startswith("Cluster"):
                team.kubectl.delete(each["kind"], each["metadata"]["name"])


def address(team: Team) -> str | None:
    """Of the server's pod, once it answers."""
    pod = team.kubectl.get("pod", "ollama", team.namespace)
    ready = pod and conditions(pod).get("Ready", {}).get("status") == "True"
    return str(pod["status"]["podIP"]) if pod and ready else None


def server(namespace: str, image: str) -> Object:
    """A pod of `ollama serve`."""
    environment = {
        "OLLAMA_HOST": f"0.0.0.0:{PORT}",
        "OLLAMA_MODELS": "/models",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_NO_CLOUD": "1",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "ollama", "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "ollama",
                    "image": image,
                    "command": ["ollama", "serve"],
                    "env": [{"name": n, "value": value} for n, value in environment.items()],
                    "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"cpu": "1", "memory": "1Gi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "tmp", "mountPath": "/tmp"},
                        {"name": "models", "mountPath": "/models"},
                    ],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "models", "emptyDir": {}}],
        },
    }


def helm(*arguments: str, stdin: str | None = None) -> str:
    """What helm says."""
    return subprocess.run(
        ["helm", *arguments], input=stdin, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize("ollama", ["Redirect"], indirect=True)
def test_one_ollama_server_pulls_models_by_name_and_loads_them_on_demand(
    team: Team, ollama: Ollama
) -> None:
    llama = team.apply(quantized_model("llama", ("GGUF", "Q8_0"), serving=None))
    phi = team.apply(
        quantized_model("phi", ("GGUF", "Q4_K_M"), f"s3://{SOURCES_BUCKET}/tiny-phi3", serving=None)
    )
    first, second = ollama.name(llama, "Q8_0"), ollama.name(phi, "q4_k_m")
    for name, tag, whole in ((llama, "Q8_0", first), (phi, "q4_k_m", second)):
        precision = team.ready(name)["status"]["artifact"]["precision"]
        assert ollama.pull(name, tag) == {"status": "success"}
        shown = ollama.post("/api/show", model=whole)
        assert shown["details"]["quantization_level"] == precision
        assert shown["template"] != NO_TEMPLATE, "Ollama knows how to lay out a conversation"

    asked = [{"role": "user", "content": "What does the function return?"}]
    options = {"temperature": 0, "num_predict": 16}
    assert ollama.loaded() == []
    said = ollama.post("/api/chat", model=first, messages=asked, options=options)
    assert said["message"]["content"], said
    assert ollama.loaded() == [first]
    assert ask_in_chat(ollama.url, second, asked[0]["content"])
    assert ollama.loaded() == [second], "one model is loaded at a time"
    again = ollama.post("/api/chat", model=first, messages=asked, options=options)
    assert again["message"]["content"] == said["message"]["content"]
    assert ollama.loaded() == [first]


@pytest.mark.slow
@pytest.mark.parametrize("ollama", ["Proxy"], indirect=True)
def test_what_the_gate_refused_is_not_to_be_pulled_and_what_serves_is(
    team: Team, ollama: Ollama
) -> None:
    evaluation = {"uri": text_uri("evaluation.txt"), "maxTokens": 4096}
    name = team.apply(
        quantized_model(
            "gated",
            ("GGUF", "Q8_0"),
            quality={"evaluation": evaluation, "minTopTokenAgreementPercent": 90},
            serving=None,
        )
    )
    team.ready(name)
    key = team.model(name)["status"]["artifact"]["key"]
    assert ollama.pull(name, key) == {"status": "success"}
    team.patch(
        name,
        {"quantization": {"precision": "Q4_0"}, "quality": {"minTopTokenAgreementPercent": 100}},
    )
    assert team.stalled(name, timeout=600)["reason"] == "QualityBelowLimit"
    status = team.model(name)["status"]
    assert status["artifact"]["precision"] == "Q4_0"
    assert ollama.pull(name, "Q4_0") == {"error": "pull model manifest: file does not exist"}
    assert ollama.pull(name, "Q8_0") == {"status": "success"}

    never = team.apply(
        quantized_model(
            "never",
            ("GGUF", "Q4_0"),
            quality={"evaluation": evaluation, "minTopTokenAgreementPercent": 100},
            serving=None,
        )
    )
    assert team.stalled(never, timeout=600)["reason"] == "QualityBelowLimit"
    told = ollama.pull(never, "Q4_0")["error"]
    assert "403" in told
    assert "minTopTokenAgreementPercent is 100, but" in told
