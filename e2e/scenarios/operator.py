"""The operator under test, as an administrator sees it."""

from dataclasses import dataclass
from typing import Any

from e2e.install import RELEASE, SYSTEM_NAMESPACE
from e2e.kubectl import Kubectl, Object
from e2e.scenarios.waiting import until

LEASE = "quantop-operator"


@dataclass(frozen=True)
class Operator:
    """The Deployment that the chart made."""

    kubectl: Kubectl

    @property
    def user(self) -> str:
        """The operator's name at the API server."""
        account = self.deployment()["spec"]["template"]["spec"]["serviceAccountName"]
        return f"system:serviceaccount:{SYSTEM_NAMESPACE}:{account}"

    def deployment(self) -> Object:
        found = self.kubectl.get("deployment", RELEASE, SYSTEM_NAMESPACE)
        assert found is not None
        return found

    def pods(self) -> list[Object]:
        """The replicas, without those that an upgrade has sent away."""
        labels: dict[str, Any] = self.deployment()["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{label}={value}" for label, value in labels.items())
        found = self.kubectl.find("pods", SYSTEM_NAMESPACE, selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def leader(self) -> str:
        """The name of the pod that holds the Lease; empty when nobody does."""
        lease = self.kubectl.get("lease", LEASE, SYSTEM_NAMESPACE)
        return str((lease or {}).get("spec", {}).get("holderIdentity", ""))

    def kill(self, pod: str) -> None:
        """End a pod at once, without letting it give up its Lease."""
        self.kubectl.delete("pod", pod, SYSTEM_NAMESPACE, "--grace-period=0", "--force")

    def wait_for_another_leader(self, than: str, timeout: float = 120) -> str:
        """The new leader's pod."""

        def other() -> str:
            leader = self.leader()
            alive = {pod["metadata"]["name"] for pod in self.pods()}
            return leader if leader != than and leader in alive else ""

        return until("another replica leads", other, timeout, every=0.2)
