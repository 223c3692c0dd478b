"""What the chart renders, and what its switches do."""

import importlib
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
import yaml
from quantop import workflows
from quantop.api.base import ApiModel
from quantop.api.kinds import KINDS
from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.preset import PresetSpec
from quantop.api.quantizedmodel import QuantizedModelSpec, QuantizedModelStatus
from quantop.api.quantizer import QuantizerSpec
from quantop.builders import meta
from quantop.reconcile import choices, presets
from quantop.reconcile.choices import allowed_passes
from quantop.reconcile.snapshot import Problem, Snapshot
from quantop.settings import Settings
from quantop_adapters import (
    llama_cpp,
    olive,
    olive_encoder,
    onnxruntime_genai,
    search,
    stage,
    workflow,
)

from e2e.cluster.paths import REPOSITORY
from tests.chart.helm import CHART, DIGEST, EVERYTHING, Helm, Rendered
from tests.kube import EXAMPLES, Object

T = TypeVar("T", bound=ApiModel)

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
PLAIN = Helm().render()
FULL = Helm().render(EVERYTHING, "--is-upgrade")
BOTH = pytest.mark.parametrize("rendered", [PLAIN, FULL], ids=["defaults", "everything"])


def rules(rendered: Rendered) -> Iterator[Object]:
    for role in (*rendered.of("ClusterRole"), *rendered.of("Role")):
        yield from role["rules"]


def operator_rules() -> list[Object]:
    return [*PLAIN.one("ClusterRole", "quantop")["rules"], *PLAIN.one("Role")["rules"]]


@BOTH
def test_every_pod_meets_pod_security_restricted(rendered: Rendered) -> None:
    pods = list(rendered.pods())
    assert pods
    for pod in pods:
        spec = pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        kinds = {kind for volume in spec["volumes"] for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "projected"}
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


@BOTH
def test_no_role_has_a_wildcard(rendered: Rendered) -> None:
    for rule in rules(rendered):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


@BOTH
def test_no_role_touches_secrets_or_roles_or_pods_inside(rendered: Rendered) -> None:
    forbidden = {"secrets", "configmaps", "pods/exec", "pods/attach", "pods/portforward"}
    for rule in rules(rendered):
        assert not forbidden & set(rule["resources"])
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_the_operator_writes_its_children_and_little_else() -> None:
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    written = {
        (resource, verb)
        for rule in operator_rules()
        for resource in rule["resources"]
        for verb in writes & set(rule["verbs"])
    }
    children = {"jobs", "deployments", "services"}
    children |= {"poddisruptionbudgets", "horizontalpodautoscalers"}
    expected = {(child, verb) for child in children for verb in ("create", "patch", "delete")}
    expected |= {("quantizedmodels", "patch"), ("quantizedmodels/status", "patch")}
    expected |= {("quantizedmodels/finalizers", "update")}
    expected |= {("events", "create"), ("events", "patch")}
    expected |= {("leases", verb) for verb in ("create", "update", "patch")}
    assert written == expected


def test_leases_are_the_operators_own() -> None:
    lease = [rule for rule in operator_rules() if "leases" in rule["resources"]]
    assert [rule for rule in lease if rule["verbs"] != ["create"]] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["quantop-operator"],
            "verbs": ["get", "update", "patch"],
        }
    ]
    assert all("leases" not in r["resources"] for r in PLAIN.one("ClusterRole", "quantop")["rules"])


def test_two_replicas_and_a_disruption_budget() -> None:
    deployment = PLAIN.one("Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budget = PLAIN.one("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert budget["spec"]["selector"]["matchLabels"] == selector
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    assert all(each["labelSelector"]["matchLabels"] == selector for each in spread)


def test_jobs_are_no_operators() -> None:
    """The disruption budget, the Service and the Deployment must not take a hook's pod for one."""
    selector = FULL.one("Deployment", "quantop")["spec"]["selector"]["matchLabels"]
    jobs = [job["spec"]["template"]["metadata"]["labels"] for job in FULL.of("Job")]
    assert jobs
    assert not [labels for labels in jobs if selector.items() <= labels.items()]


def test_the_operator_is_probed_and_scraped() -> None:
    container = PLAIN.operator()
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness")}
    assert set(map(str, probes.values())) == {"{'path': '/healthz', 'port': 'health'}"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": 8080, "metrics": 9090}
    annotations = PLAIN.one("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "9090"
    off = Helm().render({"monitoring": {"scrapeAnnotations": False}})
    assert "annotations" not in off.one("Deployment")["spec"]["template"]["metadata"]
    service = PLAIN.one("Service")["spec"]
    assert service["ports"] == [{"name": "metrics", "port": 9090, "targetPort": "metrics"}]


def environment(rendered: Rendered) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in rendered.operator()["env"]}


def test_the_operator_understands_its_environment() -> None:
    given = {name: value for name, value in environment(FULL).items() if value is not None}
    settings = Settings.from_environment(given)
    assert settings.worker_image == "registry.example.com/team/quantop/worker:0.1.0"
    assert settings.hub_endpoint == "https://hub.example.com"
    assert settings.lease_seconds == 10
    defaults = Settings.from_environment(
        {name: value for name, value in environment(PLAIN).items() if value is not None}
    )
    assert defaults == Settings(worker_image="ghcr.io/quantop/worker:0.1.0")


def test_the_operator_is_told_who_and_where_it_is() -> None:
    fields = {
        each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in PLAIN.operator()["env"]
        if "valueFrom" in each
    }
    assert fields == {
        "QUANTOP_NAMESPACE": "metadata.namespace",
        "QUANTOP_POD_NAME": "metadata.name",
    }


def images(rendered: Rendered) -> dict[str, str]:
    found = {o["metadata"]["name"]: o["spec"]["image"] for o in rendered.of("Quantizer")}
    found |= {o["metadata"]["name"]: o["spec"]["image"] for o in rendered.of("ModelRuntime")}
    worker = environment(rendered)["QUANTOP_WORKER_IMAGE"]
    return {**found, "operator": rendered.operator()["image"], "worker": worker}


def test_images_are_tagged_with_the_version() -> None:
    assert all(re.fullmatch(r"ghcr\.io/quantop/[a-z-]+:0\.1\.0", i) for i in images(PLAIN).values())


def test_digests_win_over_tags() -> None:
    names = [name for name, value in VALUES["images"].items() if isinstance(value, dict)]
    names.remove("digests")
    given = {name: {"digest": DIGEST, "tag": "ignored"} for name in names}
    rendered = Helm().render({"images": given})
    assert all(image.endswith(f"@{DIGEST}") for image in images(rendered).values())


def test_digests_by_repository() -> None:
    """As images/build.py leaves them."""
    digests = {"quantop/worker": DIGEST, "quantop/quantizer-core": DIGEST}
    found = images(Helm().render({"images": {"digests": digests, "registry": "10.0.0.1:5000"}}))
    assert found["worker"] == f"10.0.0.1:5000/quantop/worker@{DIGEST}"
    assert found["llama-cpp"] != found["worker"]
    assert found["onnxruntime-genai"] == f"10.0.0.1:5000/quantop/quantizer-core@{DIGEST}"
    assert found["operator"] == "10.0.0.1:5000/quantop/operator:0.1.0"


def test_an_image_that_is_not_there_is_named() -> None:
    answer = Helm()(
        "template", "q", str(CHART), values={"quantizers": {"llama-cpp": {"image": "typo"}}}
    )
    assert not answer.ok
    assert '"typo" is neither an entry of images nor an image reference' in answer.text


@pytest.mark.parametrize(
    ("values", "kind"), [("quantizers", "Quantizer"), ("modelRuntimes", "ModelRuntime")]
)
def test_built_ins_are_switchable_and_others_can_be_added(values: str, kind: str) -> None:
    names = set(VALUES[values])
    assert len(names) >= 4
    assert PLAIN.names(kind) == names
    first = sorted(names)[0]
    spec = VALUES[values][first]["spec"]
    mine = {"enabled": True, "image": "registry.example.com/mine:1", "spec": spec}
    changed = {first: {"enabled": False}, "mine": mine}
    rendered = Helm().render({values: changed})
    assert rendered.names(kind) == names - {first} | {"mine"}
    assert rendered.one(kind, "mine")["spec"] == {"image": "registry.example.com/mine:1", **spec}


def test_presets_are_switchable_and_others_can_be_added() -> None:
    assert PLAIN.names("Preset") == set(VALUES["presets"])
    mine = {"description": "Ours.", "quantization": {"format": "GGUF", "precision": "Q6_K"}}
    changed = {
        "mobile": {"enabled": False},
        "desktop": {"spec": {"quality": None}},
        "mine": {"enabled": True, "spec": mine},
    }
    rendered = Helm().render({"presets": changed})
    assert rendered.names("Preset") == set(VALUES["presets"]) - {"mobile"} | {"mine"}
    assert rendered.one("Preset", "mine")["spec"] == mine
    desktop = dict(VALUES["presets"]["desktop"]["spec"])
    assert desktop.pop("quality")
    assert rendered.one("Preset", "desktop")["spec"] == desktop


PRESETS = pytest.mark.parametrize("name", sorted(PLAIN.names("Preset")))


@PRESETS
def test_a_presets_recipe_is_offered_by_a_quantizer(name: str) -> None:
    for snapshot in spelt_out(name):
        quantizer = choices.choose_quantizer(snapshot)
        assert isinstance(quantizer, choices.ChosenQuantizer), quantizer


@PRESETS
def test_a_presets_recipe_is_served_by_the_runtime_that_it_names(name: str) -> None:
    """Or by the default one. The chart brings no runtime for GPUs: that one is an example."""
    for snapshot in spelt_out(name, serving={}):
        runtime = choices.choose_runtime(snapshot)
        assert isinstance(runtime, choices.ChosenRuntime), runtime
        named = snapshot.presets[name].runtime_name
        assert named in (None, runtime.name)
        assert runtime.name in VALUES["modelRuntimes"] or name.startswith("nvidia-")


@PRESETS
def test_the_page_of_presets_tells_what_the_chart_brings(name: str) -> None:
    page = REPOSITORY.joinpath("docs/reference/presets.md").read_text()
    (row,) = re.findall(rf"^\| `{name}`.*$", page, re.MULTILINE)
    spec = PLAIN.one("Preset", name)["spec"]
    _, recipe, limit, runtime, sources = (cell.strip() for cell in row.strip("|").split("|"))
    assert recipe.split(",")[0] == " ".join(
        spec["quantization"][f] for f in ("format", "precision")
    )
    assert limit == str(spec.get("quality", {}).get("maxPerplexityIncreasePercent", "any"))
    assert runtime.strip("`") == spec.get("runtimeName", "")
    assert all(f"\n{source}. " in page for source in sources.split(", "))


def spelt_out(name: str, **spec: Any) -> Iterator[Snapshot]:
    """What the operator makes of an object that names the Preset and has both texts, in a cluster
    that has what the chart brings and the example of a runtime for GPUs; one for each precision
    with Auto."""
    gpu = yaml.safe_load(EXAMPLES.joinpath("modelruntime-vllm-gpu.yaml").read_text())
    runtimes = [*PLAIN.of("ModelRuntime"), gpu]
    model = {
        "source": {"uri": "hf://owner/name"},
        "quantization": {"presetName": name, "calibration": {"uri": "s3://texts/calibration.txt"}},
        "quality": {"evaluation": {"uri": "s3://texts/evaluation.txt"}},
        **spec,
    }
    snapshot = presets.spelt_out(snapshot_of(model, runtimes))
    assert isinstance(snapshot, Snapshot), snapshot
    asked = snapshot.spec.quantization.auto
    for precision in asked.precisions if asked else [snapshot.precision]:
        offered = choices.offered_precisions(snapshot)
        assert isinstance(offered, dict), offered
        yield choices.with_precision(snapshot, precision, offered.get(precision))


def snapshot_of(model: Object, runtimes: list[Object]) -> Snapshot:
    """What the operator sees of a spec, beside what the chart brings."""
    return Snapshot(
        model={},
        spec=QuantizedModelSpec.model_validate(model),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        quantizers=by_name(QuantizerSpec, PLAIN.of("Quantizer")),
        runtimes=by_name(ModelRuntimeSpec, runtimes),
        presets=by_name(PresetSpec, PLAIN.of("Preset")),
    )


def by_name(type_: type[T], manifests: list[Object]) -> dict[str, T]:
    return {each["metadata"]["name"]: type_.model_validate(each["spec"]) for each in manifests}


@BOTH
def test_what_it_brings_of_our_kinds_is_what_the_types_take(rendered: Rendered) -> None:
    kinds = {kind.name: kind for kind in KINDS}
    found = [each for each in rendered.objects if each["kind"] in kinds]
    assert len(found) >= 6
    for each in found:
        kinds[each["kind"]].spec.model_validate(each["spec"])


ADAPTERS = {
    "auto-round-awq": ("auto_round", "Awq"),
    "auto-round-gptq": ("auto_round", "Gptq"),
    "llama-cpp": ("llama_cpp", "LlamaCpp"),
    "llama-cpp-encoder": ("llama_cpp_encoder", "LlamaCppEncoder"),
    "llm-compressor": ("llm_compressor", "LlmCompressor"),
    "mlx": ("mlx", "Mlx"),
    "onnxruntime": ("onnxruntime", "Onnxruntime"),
    "onnxruntime-tensorflow": ("tensorflow", "OnnxruntimeTensorflow"),
    "onnxruntime-genai": ("onnxruntime_genai", "OnnxruntimeGenai"),
    "onnxruntime-genai-cuda": ("onnxruntime_genai", "Cuda"),
    "onnxruntime-genai-directml": ("onnxruntime_genai", "DirectMl"),
    "onnxruntime-genai-webgpu": ("onnxruntime_genai", "WebGpu"),
    "olive": ("olive", "Olive"),
    "olive-encoder": ("olive_encoder", "OliveEncoder"),
    "openvino": ("openvino", "OpenVino"),
    "qnn": ("qnn", "Qnn"),
}
"""The module and class behind each built-in Quantizer."""
REACHES_OUT = re.compile("script|path|dir|file|data|host|target|url|extra")
"""In names of settings by which a pass of Olive's reads, writes or runs what a user names."""


def has_harness(name: str) -> bool:
    """Whether a built-in Quantizer's image has lm-evaluation-harness."""
    image = yaml.safe_load((CHART / "values.yaml").read_text())["quantizers"][name]["image"]
    folder = REPOSITORY / "images" / "quantizers" / image.removeprefix("quantizer").lower()
    return "\nlm-eval==" in (folder / "requirements.in").read_text()


def test_built_in_quantizers_offer_what_their_adapters_can() -> None:
    assert PLAIN.names("Quantizer") == set(ADAPTERS)
    for name, (module_name, type_) in ADAPTERS.items():
        module = importlib.import_module(f"quantop_adapters.{module_name}")
        adapter = getattr(module, type_)()
        spec = PLAIN.one("Quantizer", name)["spec"]
        assert spec["command"] == ["python", "-m", module.__name__]
        assert spec["format"] == adapter.format
        assert {each["name"] for each in spec["precisions"]} == set(adapter.precisions)
        overriding = isinstance(adapter, stage.Overriding)
        offers = {"precisions": [*adapter.override_precisions]} if overriding else {}
        assert {**spec.get("overrides", {}), "exceptFor": None} == {**offers, "exceptFor": None}
        composing = isinstance(adapter, stage.Composing)
        assert {each["type"] for each in spec.get("passes", [])} == {
            *(adapter.passes if composing else ())
        }
        for each in spec.get("passes", []):
            calibrated = each.get("calibration") == "Required"
            assert calibrated == workflow.needs_text([each])
            assert not [name for name in each["settings"] if REACHES_OUT.search(name)]
        splitting = spec.get("fileSplitting", "Unsupported") == "Supported"
        assert splitting == isinstance(adapter, stage.Splitting)
        generates = not isinstance(adapter, stage.Measuring)
        assert spec.get("evaluations", ["Text"]) == [
            *(["Text", "Prompts"] if generates else ["Text"]),
            *(["Tasks"] if generates and has_harness(name) else []),
        ], name
        if hasattr(module, "METHODS"):
            offered = {
                each["name"]: [
                    (method["name"], method.get("calibration") == "Required")
                    for method in each["methods"]
                ]
                for each in spec["precisions"]
            }
            assert offered == {each: [*module.METHODS[each].items()] for each in adapter.precisions}


@pytest.mark.parametrize(("name", "module"), [("olive", olive), ("olive-encoder", olive_encoder)])
def test_each_way_of_a_search_may_be_asked_for_alone(name: str, module: Any) -> None:
    """A benchmark tells the workflow that makes a candidate again."""
    spec = QuantizerSpec.model_validate(PLAIN.one("Quantizer", name)["spec"])
    ways = 0
    for methods in module.RECIPES.values():
        for way in itertools.product(*workflow.places(methods.get(search.METHOD, [[]]))):
            passes = {f"pass{index}": each for index, each in enumerate(way)}
            text = json.dumps({"passes": passes})
            read = workflows.read(text, "workflow", name, allowed_passes(spec))
            assert [*json.loads(read.text)["passes"]] == [*passes]
            ways += 1
    assert ways >= 8


def test_each_execution_provider_has_a_quantizer_that_says_what_it_is_for() -> None:
    found = {}
    for each in PLAIN.of("Quantizer"):
        spec = each["spec"]
        if spec["command"][-1] == onnxruntime_genai.__name__:
            environment = {entry["name"]: entry["value"] for entry in spec.get("env", [])}
            found[spec.get("hardware", "CPU")] = type(onnxruntime_genai.toolchain(environment))
    assert found == onnxruntime_genai.TOOLCHAINS


def test_the_page_of_formats_tells_of_every_quantizer() -> None:
    page = REPOSITORY.joinpath("docs/reference/formats.md").read_text()
    headings = re.findall(r"^(?:## |\| `).*$", page, re.MULTILINE)
    told = {name for heading in headings for name in re.findall("`(.*?)`", heading)}
    assert PLAIN.names("Quantizer") <= told


def test_floats_leave_no_tensor_another_precision() -> None:
    overrides = PLAIN.one("Quantizer", "llama-cpp")["spec"]["overrides"]
    assert set(overrides["exceptFor"]) == llama_cpp.FLOAT_TYPES


def test_who_asks_to_serve_what_no_cluster_can_is_told_what_it_is_for() -> None:
    model = {
        "source": {"uri": "hf://owner/name"},
        "quantization": {"format": "QNN", "precision": "W8A16"},
        "serving": {},
    }
    problem = choices.choose_runtime(snapshot_of(model, PLAIN.of("ModelRuntime")))
    assert isinstance(problem, Problem)
    assert problem.reason == "RuntimeNotFound"
    hardware = "Qualcomm's Hexagon Tensor Processor"
    assert f"serves QNN W8A16, which is for {hardware}; " in problem.message


STORED_BITS = {"W4A8": 8}
"""Precisions whose weights take another number of bits than their names begin with."""


def test_bands_of_one_format_rise_with_the_precision() -> None:
    """A floor below the precision's own bits would let something else through."""
    looked_at = 0
    for quantizer in PLAIN.of("Quantizer"):
        for precision in quantizer["spec"]["precisions"]:
            low, high = (float(precision["bitsPerWeight"][end]) for end in ("min", "max"))
            (own, *_) = map(int, re.findall(r"\d+", precision["name"]))
            own = STORED_BITS.get(precision["name"], own)
            looked_at += 1
            assert own - 1 <= low <= own + 0.5, precision
            assert own + 0.5 <= high < max(own * 1.7, own + 3), precision
    assert looked_at >= 69, "every precision was looked at"


def test_every_served_format_can_be_written() -> None:
    written = {
        (each["spec"]["format"], precision["name"])
        for each in PLAIN.of("Quantizer")
        for precision in each["spec"]["precisions"]
    }
    for runtime in PLAIN.of("ModelRuntime"):
        for served in runtime["spec"]["formats"]:
            for precision in served.get("precisions", []):
                assert (served["format"], precision) in written
            assert served["format"] in {format_ for format_, _ in written}


def test_the_default_store() -> None:
    assert not PLAIN.of("ModelStore")
    store = FULL.one("ModelStore")
    assert store["metadata"]["name"] == "default"
    assert store["spec"] == EVERYTHING["store"]["spec"]


def test_pod_monitors_see_the_operator_and_every_model() -> None:
    assert not PLAIN.of("PodMonitor")
    operator = FULL.one("PodMonitor", "quantop")
    models = FULL.one("PodMonitor", "quantop-models")
    labels = FULL.one("Deployment", "quantop")["spec"]["template"]["metadata"]["labels"]
    assert operator["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert models["spec"]["namespaceSelector"] == {"any": True}
    served = meta.labels("name", meta.SERVER)
    assert models["spec"]["selector"]["matchLabels"].items() <= served.items()
    for monitor in (operator, models):
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert operator["spec"]["podMetricsEndpoints"][0]["honorLabels"] is True


def test_alerts_are_those_of_the_example() -> None:
    assert not PLAIN.of("PrometheusRule")
    rule = FULL.one("PrometheusRule", "quantop")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    example = yaml.safe_load((EXAMPLES / "prometheus-rules.yaml").read_text())
    assert example["kind"] == "PrometheusRule"
    assert rule["spec"] == example["spec"]


def test_network_policies_are_where_the_pods_are() -> None:
    assert not PLAIN.of("NetworkPolicy")
    policies = FULL.of("NetworkPolicy")
    places = sorted((p["metadata"]["namespace"], p["metadata"]["name"]) for p in policies)
    assert places == [
        ("quantop-system", "quantop"),
        ("quantop-system", "quantop-registry"),
        ("team-a", "quantop-jobs"),
        ("team-a", "quantop-servers"),
        ("team-b", "quantop-jobs"),
        ("team-b", "quantop-servers"),
    ]
    assert all(p["spec"]["policyTypes"] == ["Ingress", "Egress"] for p in policies)


def test_network_policies_select_by_the_operators_labels() -> None:
    by_name = {p["metadata"]["name"]: p["spec"] for p in FULL.of("NetworkPolicy")}
    jobs, servers = by_name["quantop-jobs"], by_name["quantop-servers"]
    components = jobs["podSelector"]["matchExpressions"][0]
    assert components["key"] == meta.COMPONENT_LABEL
    kinds = [meta.RESOLVE, meta.CONVERT, meta.DELETE, meta.TRIAL, meta.REPORT]
    assert components["values"] == kinds
    assert "ingress" not in jobs, "nothing comes into a Job"
    served = meta.labels("name", meta.SERVER)
    assert servers["podSelector"]["matchLabels"].items() <= served.items()
    clients = EVERYTHING["networkPolicies"]["clients"]
    assert servers["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}], "from": clients}]
    for policy in (jobs, servers):
        assert {"to": EVERYTHING["networkPolicies"]["storage"]} in policy["egress"]
        assert {} not in policy["egress"]


REGISTRY = Helm().render({"registry": {"enabled": True}})


def test_there_is_a_registry_only_where_one_is_asked_for() -> None:
    assert "registry" not in " ".join(
        f"{each['metadata']['name']} {each['metadata'].get('labels')}" for each in PLAIN.objects
    )
    assert {o["kind"] for o in REGISTRY.objects if o["metadata"]["name"] == "quantop-registry"} == {
        "ClusterRole",
        "ClusterRoleBinding",
        "Deployment",
        "Service",
        "ServiceAccount",
    }


def test_the_registry_reads_models_and_its_store_and_nothing_else() -> None:
    def granted(rendered: Rendered) -> set[tuple[str, str, str, str]]:
        return {
            (binding["metadata"].get("namespace", "*"), resource, verb, only)
            for binding in (*rendered.of("ClusterRoleBinding"), *rendered.of("RoleBinding"))
            if binding["subjects"][0]["name"] == "quantop-registry"
            for rule in rendered.one("ClusterRole", binding["roleRef"]["name"])["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for only in rule.get("resourceNames", ["*"])
        }

    store = ("*", "modelstores", "get", "default")
    assert granted(REGISTRY) == {store, ("*", "quantizedmodels", "get", "*")}
    assert granted(FULL) == {
        store,
        ("team-a", "quantizedmodels", "get", "*"),
        ("team-b", "quantizedmodels", "get", "*"),
    }


def test_what_reads_artifacts_beside_the_registry_has_nothing_to_lose() -> None:
    spec = FULL.one("Deployment", "quantop-registry")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    by_name = {each["name"]: each for each in spec["containers"]}
    mounted = {
        name: {mount["name"] for mount in container["volumeMounts"]}
        for name, container in by_name.items()
    }
    assert mounted["registry"] - mounted["ollama"] == {"tmp", "token"}
    assert mounted["ollama"] == {"ollama-tmp", "models"}
    secret = {
        name: {each["name"] for each in container["env"] if "valueFrom" in each}
        for name, container in by_name.items()
    }
    assert secret["registry"] == {"STORE_AWS_ACCESS_KEY_ID", "STORE_AWS_SECRET_ACCESS_KEY"}
    assert secret["ollama"] == set()


def test_nobody_takes_the_registrys_pods_for_the_operators() -> None:
    labels = FULL.one("Deployment", "quantop-registry")["spec"]["template"]["metadata"]["labels"]
    for kind, name in (("Deployment", "quantop"), ("Service", "quantop-metrics")):
        selector = FULL.one(kind, name)["spec"]["selector"]
        assert not selector.get("matchLabels", selector).items() <= labels.items()
    assert FULL.one("Service", "quantop-registry")["spec"]["selector"].items() <= labels.items()
    by_name = {p["metadata"]["name"]: p["spec"] for p in FULL.of("NetworkPolicy")}
    policy = by_name["quantop-registry"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    clients = EVERYTHING["registry"]["clients"]
    assert policy["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}], "from": clients}]


@pytest.mark.parametrize("name", VALUES["modelRuntimes"])
def test_options_of_built_in_runtimes_use_what_the_operator_sets(name: str) -> None:
    """A misspelt variable would reach the engine as it stands there."""
    runtime = by_name(ModelRuntimeSpec, PLAIN.of("ModelRuntime"))[name]
    assert runtime.options
    for option in runtime.options:
        given = [*option.args, *(argument for value in option.values for argument in value.args)]
        named = set(re.findall(r"\$\((\w+)\)", " ".join(given)))
        assert named == ({option.name.variable} if option.args else set())


def test_network_policies_without_peers_leave_the_ways_open() -> None:
    values = {"networkPolicies": {"enabled": True, "namespaces": ["team-a"]}}
    policies = {p["metadata"]["name"]: p["spec"] for p in Helm().render(values).of("NetworkPolicy")}
    assert {} in policies["quantop-jobs"]["egress"]
    assert "from" not in policies["quantop-servers"]["ingress"][0]


def test_user_roles_add_to_the_clusters_own() -> None:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"

    def into(name: str) -> set[str]:
        labels = PLAIN.one("ClusterRole", name)["metadata"]["labels"]
        return {label.removeprefix(prefix) for label in labels if label.startswith(prefix)}

    assert into("quantop-view") == {"view", "edit", "admin"}
    assert into("quantop-edit") == {"edit", "admin"}
    assert into("quantop-platform") == into("quantop-catalogue") == into("quantop") == set()
    off = Helm().render({"rbac": {"userRoles": False}})
    assert off.names("ClusterRole") == {"quantop"}


def test_what_is_off_is_not_there() -> None:
    off = Helm().render(
        {
            "rbac": {"create": False, "userRoles": False},
            "serviceAccount": {"create": False},
            "podDisruptionBudget": {"enabled": False},
            "quantizers": {name: {"enabled": False} for name in VALUES["quantizers"]},
            "modelRuntimes": {name: {"enabled": False} for name in VALUES["modelRuntimes"]},
            "presets": {name: {"enabled": False} for name in VALUES["presets"]},
        }
    )
    assert {each["kind"] for each in off.objects} == {"Deployment", "Service"}
    assert off.one("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "default"


def test_crds_come_with_an_install_and_stay() -> None:
    """From crds/, which helm installs first and never deletes."""
    assert not PLAIN.of("CustomResourceDefinition")
    assert len(Helm().render({}, "--include-crds").of("CustomResourceDefinition")) == len(KINDS)
    assert not PLAIN.of("Job"), "nothing changes or removes them"


def hooks(rendered: Rendered) -> dict[str, str]:
    return {
        job["metadata"]["annotations"]["helm.sh/hook"]: job["spec"]["template"]["spec"][
            "containers"
        ][0]["command"][-1]
        for job in rendered.of("Job")
    }


def test_crds_follow_an_upgrade_unless_told_not_to() -> None:
    assert hooks(Helm().render({}, "--is-upgrade")) == {"pre-upgrade": "upgrade"}
    assert hooks(Helm().render({"crds": {"upgrade": False}}, "--is-upgrade")) == {}


def test_crds_are_removed_only_where_keep_is_off() -> None:
    assert hooks(Helm().render({"crds": {"keep": False}})) == {
        "pre-delete": "remove-models",
        "post-delete": "remove",
    }


def test_hooks_are_gone_once_they_did_their_work() -> None:
    hooked = [o for o in FULL.objects if "helm.sh/hook" in o["metadata"].get("annotations", {})]
    assert {o["kind"] for o in hooked} == {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Job",
    }
    for each in hooked:
        policy = each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert policy == "before-hook-creation,hook-succeeded"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"operator": {"replica": 1}}, "'replica' not allowed"),
        ({"image": {}}, "'image' not allowed"),
        ({"images": {"worker": {"digest": "latest"}}}, "does not match pattern"),
        ({"store": {"create": True}}, "missing property 's3'"),
        ({"operator": {"env": {"PATH": "/"}}}, "PATH"),
        ({"quantizers": {"mine": {"enabled": True}}}, "missing properties 'image', 'spec'"),
        # Helm applies without asking for strict validation: the API server would drop these.
        ({"quantizers": {"llama-cpp": {"spec": {"formats": []}}}}, "'formats' not allowed"),
        ({"modelRuntimes": {"vllm": {"spec": {"drain": {"x": 1}}}}}, "'x' not allowed"),
        ({"modelRuntimes": {"vllm": {"spec": {"image": "a/b"}}}}, "'image' not allowed"),
        ({"presets": {"mobile": {"spec": {"runtime": "vllm"}}}}, "'runtime' not allowed"),
        ({"store": {"create": True, "spec": {"s3": {"bukket": "a"}}}}, "'bukket' not allowed"),
        ({"registry": {"weights": "Stream"}}, "'Redirect', 'Proxy'"),
        ({"registry": {"publicEndpoint": "https://s3/bucket"}}, "registry/publicEndpoint"),
    ],
)
def test_values_are_checked(values: Object, sentence: str) -> None:
    answer = Helm()("template", "q", str(CHART), values=values)
    assert not answer.ok
    assert sentence in answer.text


def test_a_long_release_name_is_cut() -> None:
    answer = Helm()("template", "q" * 53, str(CHART), values=EVERYTHING)
    assert answer.ok, answer.text
    documents = [each for each in yaml.safe_load_all(answer.text) if each]
    assert max(len(each["metadata"]["name"]) for each in documents) <= 63
