"""The chart on a real API server: what helm makes there, who may do what, what hooks are allowed.

kube-controller-manager runs, so that roles aggregate; there is no node, so nothing starts.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
import yaml
from quantop.api.base import GROUP
from quantop.api.kinds import KINDS
from quantop.kube import PLURALS

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.paths import REPOSITORY
from tests.api.manifests import good
from tests.chart.helm import CHART, EVERYTHING, NAMESPACE, RELEASE, Helm, merged
from tests.kube import Answer, Kubectl, Object

OPERATOR = f"system:serviceaccount:{NAMESPACE}:quantop"
MODELS = "team-a"
VALUES: Object = {
    "admission": {"requireStrictFields": True},
    "store": EVERYTHING["store"],
    "crds": {"upgrade": False},
}
LEASE = "quantop-operator"
GROUPS = {
    "Job": "batch",
    "Deployment": "apps",
    "Service": "",
    "PodDisruptionBudget": "policy",
    "HorizontalPodAutoscaler": "autoscaling",
}
"""API groups of what the operator makes."""
CATALOGUE = [kind.plural for kind in KINDS if kind.scope == "Cluster"]
"""What the platform team owns, and everyone chooses from."""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with the chart installed on it, and a namespace for models."""
    with ControlPlane(controller_manager=True) as api:
        helm = Helm(api.kubeconfig)
        answer = helm("install", RELEASE, str(CHART), f"--namespace={NAMESPACE}",
                      "--create-namespace", values=VALUES)  # fmt: skip
        assert answer.ok, answer.text
        assert "What next" in answer.text
        Kubectl(api.kubectl, api.kubeconfig).must("create", "namespace", MODELS)
        yield api


@pytest.fixture(scope="module")
def admin(plane: ControlPlane) -> Kubectl:
    return Kubectl(plane.kubectl, plane.kubeconfig)


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait: policies and roles take effect a moment after they were made."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not so in {seconds} s"
        time.sleep(0.3)


@dataclass(frozen=True)
class Deed:
    """Something that somebody may or may not do: `resource` may have a subresource behind a `/`;
    no namespace means all of them."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def review(self, user: str) -> Object:
        """The API server's own question about it."""
        resource, _, subresource = self.resource.partition("/")
        attributes = {"verb": self.verb, "group": self.group, "resource": resource}
        attributes |= {"subresource": subresource, "namespace": self.namespace, "name": self.name}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": {"user": user, "resourceAttributes": attributes},
        }


def allowed(admin: Kubectl, user: str, deeds: Sequence[Deed]) -> list[Deed]:
    """Those of the deeds that the user may do."""
    asked = {"apiVersion": "v1", "kind": "List", "items": [deed.review(user) for deed in deeds]}
    answer = '--output=jsonpath={.status.allowed}{"\\n"}'
    lines = admin.must("create", "--filename=-", answer, stdin=json.dumps(asked)).split()
    assert set(lines) <= {"true", "false"}
    return [deed for deed, line in zip(deeds, lines, strict=True) if line == "true"]


def test_the_chart_brings_everything(admin: Kubectl) -> None:
    for kind in KINDS:
        admin.must("get", kind.plural, "--all-namespaces")
    found = admin.must("get", ",".join(CATALOGUE), "--output=name").split()
    brought = yaml.safe_load((CHART / "values.yaml").read_text())
    built_in = ("quantizers", "modelRuntimes", "presets")
    assert len(found) == sum(len(brought[values]) for values in built_in) + 1
    assert "modelstore.quantop.dev/default" in found


def may(admin: Kubectl, user: str, deed: Deed) -> bool:
    return bool(allowed(admin, user, [deed]))


def test_pod_security_restricted_takes_every_pod(admin: Kubectl) -> None:
    """Enforced by the API server; a pod that asks for more is refused, so that this means much."""
    admin.must("create", "namespace", "restricted")
    level = "pod-security.kubernetes.io/enforce=restricted"
    admin.must("label", "namespace", "restricted", level)
    until(lambda: admin("get", "serviceaccount", "default", "--namespace=restricted").ok)
    for number, template in enumerate(Helm().render(EVERYTHING, "--is-upgrade").pods()):
        spec = template["spec"] | {"serviceAccountName": "default"}
        spec.pop("priorityClassName", None)
        metadata = {"name": f"pod-{number}", "namespace": "restricted"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        assert admin.try_apply(pod).ok, admin.try_apply(pod).text
        refused = admin.try_apply(pod | {"spec": spec | {"hostNetwork": True}})
        assert 'violates PodSecurity "restricted' in refused.text


READ, WRITE = ("get", "list", "watch"), ("create", "patch", "delete")
LEASES = ("coordination.k8s.io", "leases")


def test_the_operator_may_do_what_its_code_does(admin: Kubectl) -> None:
    children = [kind for kind in PLURALS if kind not in ("QuantizedModel", "Event", "Lease")]
    deeds = [
        Deed(verb, GROUPS[kind], PLURALS[kind]) for kind in children for verb in (*READ, *WRITE)
    ]
    deeds += [Deed(verb, GROUP, kind.plural) for kind in KINDS for verb in READ]
    deeds += [Deed("patch", GROUP, f"quantizedmodels{part}") for part in ("", "/status")]
    deeds += [Deed("update", GROUP, "quantizedmodels/finalizers")]
    deeds += [Deed(verb, "", kind) for kind in ("pods", "nodes", "namespaces") for verb in READ]
    deeds += [Deed("create", "events.k8s.io", "events", MODELS)]
    deeds += [Deed("create", *LEASES, NAMESPACE)]
    deeds += [Deed(v, *LEASES, NAMESPACE, LEASE) for v in ("get", "update", "patch")]
    assert allowed(admin, OPERATOR, deeds) == deeds


def test_the_operator_may_do_no_more(admin: Kubectl) -> None:
    deeds = [
        Deed(verb, "", kind, namespace)
        for kind in ("secrets", "configmaps")
        for verb in (*READ, *WRITE, "update")
        for namespace in (NAMESPACE, MODELS, "")
    ]
    deeds += [Deed(verb, *LEASES, MODELS, LEASE) for verb in ("get", "create", "update", "patch")]
    deeds += [Deed(verb, *LEASES, NAMESPACE, "other") for verb in ("get", "update", "patch")]
    deeds += [
        Deed("create", "", "pods", MODELS),
        Deed("delete", "", "pods", MODELS),
        Deed("create", "", "pods/exec", MODELS),
        Deed("get", "", "pods/log", MODELS),
        Deed("create", "", "serviceaccounts/token", MODELS),
        Deed("patch", "", "nodes"),
        Deed("delete", GROUP, "quantizedmodels", MODELS),
        Deed("update", GROUP, "quantizedmodels", MODELS),
        *(Deed("patch", GROUP, k) for k in CATALOGUE),
        Deed("create", "rbac.authorization.k8s.io", "rolebindings", MODELS),
        Deed("patch", "apiextensions.k8s.io", "customresourcedefinitions"),
        Deed("impersonate", "", "users"),
    ]
    assert allowed(admin, OPERATOR, deeds) == []


LIST = Deed("list", GROUP, "quantizedmodels", MODELS)
CHANGE = [Deed(verb, GROUP, "quantizedmodels", MODELS) for verb in ("create", "patch", "delete")]
SCALE = Deed("update", GROUP, "quantizedmodels/scale", MODELS)
STATUS = Deed("patch", GROUP, "quantizedmodels/status", MODELS)
ELSEWHERE = Deed("list", GROUP, "quantizedmodels", NAMESPACE)
SEE = [Deed("list", GROUP, kind) for kind in CATALOGUE]
MAKE = [Deed("create", GROUP, kind) for kind in CATALOGUE]
DEEDS = [LIST, *CHANGE, SCALE, STATUS, ELSEWHERE, *SEE, *MAKE]


@pytest.fixture(scope="module")
def people(admin: Kubectl) -> None:
    """Users by name, each with the cluster's own role of that name in the models' namespace, or
    the chart's in the whole cluster."""
    for role in ("view", "edit", "admin"):
        admin.must(
            "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}",
            f"--namespace={MODELS}",
        )  # fmt: skip
    for role in ("catalogue", "platform"):
        admin.must(
            "create", "clusterrolebinding", role, f"--clusterrole=quantop-{role}", f"--user={role}"
        )
    # kube-controller-manager puts the chart's rules into the cluster's own roles in a moment.
    for role, deed in (("view", LIST), ("edit", SCALE), ("admin", SCALE)):
        until(partial(may, admin, role, deed))


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize(
    ("user", "deeds"),
    [
        ("view", [LIST]),
        ("edit", [LIST, *CHANGE, SCALE]),
        ("admin", [LIST, *CHANGE, SCALE]),
        ("catalogue", SEE),
        ("platform", [LIST, ELSEWHERE, *SEE, *MAKE]),
        ("nobody", []),
    ],
)
def test_people_may_do_what_their_role_says(admin: Kubectl, user: str, deeds: list[Deed]) -> None:
    assert allowed(admin, user, DEEDS) == deeds


def test_a_write_that_may_lose_fields_is_refused(admin: Kubectl) -> None:
    """admission.requireStrictFields, for clients that do not ask the API server to be strict."""
    manifest = json.dumps(good("QuantizedModel", MODELS, "loose"))
    lax = ("--validate=warn", "--filename=-")
    until(lambda: not admin("create", "--dry-run=server", *lax, stdin=manifest).ok)
    answer = admin("create", "--dry-run=server", *lax, stdin=manifest)
    assert "this write did not ask for strict field validation" in answer.text

    admin.must("create", "--validate=strict", "--filename=-", stdin=manifest)
    changed = admin("patch", "qm/loose", "--namespace", MODELS, "--type=merge",
                    '--patch={"spec":{"serving":{"replicas":2}}}')  # fmt: skip
    assert not changed.ok
    for patch in ('{"metadata":{"labels":{"a":"b"}}}', '{"metadata":{"finalizers":["a.b/c"]}}'):
        admin.must("patch", "qm/loose", "--namespace", MODELS, "--type=merge", f"--patch={patch}")
    admin.must("scale", "qm/loose", "--namespace", MODELS, "--replicas=2")
    status = {"status": {"replicas": 1}}
    admin.must("patch", "qm/loose", "--namespace", MODELS, "--type=merge", "--subresource=status",
               f"--patch={json.dumps(status)}")  # fmt: skip


def test_an_upgrade_takes_and_keeps(plane: ControlPlane, admin: Kubectl) -> None:
    values = merged(
        VALUES, {"operator": {"replicas": 3}, "quantizers": {"llama-cpp": {"enabled": False}}}
    )
    answer = Helm(plane.kubeconfig)("upgrade", RELEASE, str(CHART), "-n", NAMESPACE, values=values)
    assert answer.ok, answer.text
    assert admin.get("deployment", "quantop", NAMESPACE)["spec"]["replicas"] == 3
    assert not admin("get", "quantizer", "llama-cpp").ok


def hook(plane: ControlPlane, admin: Kubectl, command: str) -> Callable[[], Answer]:
    """`python -m quantop.install COMMAND` with exactly the rights of the hook that runs it."""
    rendered = Helm().render({"crds": {"keep": False}}, "--is-upgrade")
    name = f"quantop-crds-{command}"
    for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
        admin.must("apply", "--filename=-", stdin=json.dumps(rendered.one(kind, name)))
    config = plane.kubeconfig_for(f"system:serviceaccount:{NAMESPACE}:{name}")

    def run() -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "quantop.install", command],
            env=os.environ
            | {"KUBECONFIG": str(config), "PYTHONPATH": str(REPOSITORY / "operator")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout)

    return run


def test_the_upgrade_hook_brings_crds_to_this_version(plane: ControlPlane, admin: Kubectl) -> None:
    """From an older one, which knew neither a column nor a kind."""
    old = admin.get("crd", "quantizedmodels.quantop.dev")
    columns = old["spec"]["versions"][0]["additionalPrinterColumns"]
    path = "/spec/versions/0/additionalPrinterColumns/0"
    admin.must("patch", "crd", "quantizedmodels.quantop.dev", "--type=json",
               f'--patch=[{{"op":"remove","path":"{path}"}}]')  # fmt: skip
    admin.must("delete", "crd", "modelruntimes.quantop.dev")

    answer = hook(plane, admin, "upgrade")()
    assert answer.ok, answer.text
    new = admin.get("crd", "quantizedmodels.quantop.dev")
    assert new["spec"]["versions"][0]["additionalPrinterColumns"] == columns
    admin.must("wait", "--for=condition=Established", "crd/modelruntimes.quantop.dev")


def test_uninstalling_keeps_the_models(plane: ControlPlane, admin: Kubectl) -> None:
    admin.must("create", "--filename=-", stdin=json.dumps(good("QuantizedModel", MODELS, "kept")))
    answer = Helm(plane.kubeconfig)("uninstall", RELEASE, "-n", NAMESPACE)
    assert answer.ok, answer.text
    assert admin.get("qm", "kept", MODELS)
    assert not admin("get", "deployment", "quantop", "-n", NAMESPACE).ok
    assert admin.must("get", "quantizers", "--output=name") == ""


def test_the_removal_hooks_remove_models_and_crds(plane: ControlPlane, admin: Kubectl) -> None:
    """And wait for a model whose finalizer the operator still has to let go of."""
    with ThreadPoolExecutor() as pool:
        removal = pool.submit(hook(plane, admin, "remove-models"))
        deleted = "--for=jsonpath={.metadata.deletionTimestamp}"
        admin.must("wait", "qm/loose", f"--namespace={MODELS}", deleted, "--timeout=30s")
        assert not removal.done()
        let_go = '--patch={"metadata":{"finalizers":null}}'
        admin.must("patch", "qm/loose", f"--namespace={MODELS}", "--type=merge", let_go)
    assert removal.result().ok, removal.result().text
    assert "waiting for 1 QuantizedModels to go" in removal.result().text
    assert not admin.must("get", "qm", "--all-namespaces", "--output=name")

    answer = hook(plane, admin, "remove")()
    assert answer.ok, answer.text
    until(lambda: not admin.must("get", "crd", "--output=name"))
