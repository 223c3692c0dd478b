"""etcd, kube-apiserver and kube-controller-manager: their settings, and a small one for tests.

`ControlPlane` is a real API server in a temporary folder on free loopback ports; it needs no root:

    with ControlPlane() as api:
        subprocess.run([api.kubectl, "--kubeconfig", api.kubeconfig, "get", "namespaces"])

The programs must have been built: `python -m e2e.cluster build kubernetes etcd`.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from e2e.cluster import audit, probes, toolchain
from e2e.cluster.paths import write
from e2e.cluster.pki import Authority
from e2e.cluster.processes import Identity, Supervisor

SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"


@dataclass(frozen=True)
class Layout:
    """Where a control plane listens and keeps its files: `address` is its only way in."""

    state: Path
    address: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    manager_port: int

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def etcd(self) -> str:
        return f"http://127.0.0.1:{self.etcd_port}"

    @property
    def authority(self) -> Authority:
        return Authority(self.state / "pki")

    @property
    def audit_log(self) -> Path:
        return self.state / "logs" / "audit.jsonl"

    def kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for a user of these groups, with a certificate made on demand."""
        file = "".join(c if c.isalnum() or c in "-." else "-" for c in user)
        path = self.state / "kubeconfig" / file
        if not path.exists():
            certificate = self.authority.issue(f"user-{file}", user, groups=groups)
            self.authority.kubeconfig(path, self.server, certificate)
        return path

    def admin_kubeconfig(self) -> Path:
        return self.kubeconfig("admin", ["system:masters"])


def etcd_command(layout: Layout) -> list[str | Path]:
    """etcd without fsync: what it holds need not survive the machine."""
    peer = f"http://127.0.0.1:{layout.etcd_peer_port}"
    return [
        toolchain.binary("etcd"),
        f"--data-dir={layout.state}/etcd",
        f"--listen-client-urls={layout.etcd}",
        f"--advertise-client-urls={layout.etcd}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_command(layout: Layout, *extra: str) -> list[str | Path]:
    """kube-apiserver with Node and RBAC authorization, aggregation and an audit log."""
    authority = layout.authority
    private, public = authority.signing_key()
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    hosts = [f"DNS:{name}" for name in names]
    hosts += [f"IP:{ip}" for ip in dict.fromkeys(["127.0.0.1", API_SERVICE, layout.address])]
    serving = authority.issue("kube-apiserver", "kube-apiserver", hosts=hosts)
    kubelets = authority.issue("kubelet-client", "kubelet-client", groups=["system:masters"])
    proxy = authority.issue("front-proxy", "front-proxy")
    policy = write(layout.state / "config" / "audit.json", audit.POLICY)
    layout.audit_log.parent.mkdir(parents=True, exist_ok=True)
    return [
        toolchain.binary("kube-apiserver"),
        f"--etcd-servers={layout.etcd}",
        f"--bind-address={layout.address}",
        f"--secure-port={layout.api_port}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.certificate}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={private}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--feature-gates=HPAScaleToZero=true",
        f"--kubelet-client-certificate={kubelets.certificate}",
        f"--kubelet-client-key={kubelets.key}",
        f"--kubelet-certificate-authority={authority.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={authority.certificate}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={proxy.certificate}",
        f"--proxy-client-key-file={proxy.key}",
        "--enable-aggregator-routing=true",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-maxsize=500",
        "--audit-log-maxbackup=1",
        *extra,
    ]


def controller_manager_command(layout: Layout) -> list[str | Path]:
    """kube-controller-manager, quicker to scale and to give up on a node than by default."""
    private, _ = layout.authority.signing_key()
    kubeconfig = layout.kubeconfig("system:kube-controller-manager")
    return [
        toolchain.binary("kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.manager_port}",
        f"--service-account-private-key-file={private}",
        f"--root-ca-file={layout.authority.certificate}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--feature-gates=HPAScaleToZero=true",
        "--horizontal-pod-autoscaler-sync-period=5s",
        "--node-monitor-grace-period=20s",
    ]


def scheduler_command(layout: Layout) -> list[str | Path]:
    """kube-scheduler, alone in its work."""
    kubeconfig = layout.kubeconfig("system:kube-scheduler")
    return [
        toolchain.binary("kube-scheduler"),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]


def wait_for_etcd(supervisor: Supervisor, layout: Layout) -> None:
    supervisor.wait("etcd", functools.partial(probes.healthy, f"{layout.etcd}/readyz"))


def wait_for_apiserver(supervisor: Supervisor, layout: Layout) -> None:
    ready = functools.partial(
        probes.healthy, f"{layout.server}/readyz", layout.authority.certificate
    )
    supervisor.wait("kube-apiserver", ready, seconds=120)


def wait_for_controller_manager(supervisor: Supervisor, layout: Layout) -> None:
    healthz = f"https://127.0.0.1:{layout.manager_port}/healthz"
    supervisor.wait("kube-controller-manager", functools.partial(probes.healthy, healthz))


class ControlPlane:
    """A real etcd and kube-apiserver for the length of a `with` block.

    With `controller_manager` it also runs kube-controller-manager: garbage collection, namespace
    deletion, ServiceAccounts, ReplicaSets, Jobs and so on work, though no pod ever runs. Without,
    namespaces stay Terminating and the ServiceAccount admission is off, so that pods can be made.

    The processes die with the thread that started them, so that a killed test run leaves none:
    start it from the main thread. Raises ClusterError, or its PartFailedError, when it cannot.
    """

    def __init__(self, *, controller_manager: bool = False) -> None:
        self._controller_manager = controller_manager
        self._folder = tempfile.TemporaryDirectory(prefix="quantop-api-")
        address = "127.0.0.1"
        self.layout = Layout(Path(self._folder.name), address, *_free_ports(address, 4))
        self._supervisor = Supervisor(self.layout.state)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self.layout.server

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of the group system:masters."""
        return self.layout.admin_kubeconfig()

    @property
    def kubectl(self) -> Path:
        """The built kubectl."""
        return toolchain.binary("kubectl")

    @property
    def audit(self) -> audit.AuditLog:
        """What the API server was asked."""
        return audit.AuditLog(self.layout.audit_log)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for any user, `system:serviceaccount:NAMESPACE:NAME` among them.

        A ServiceAccount's own groups are not implied: give `system:serviceaccounts` where needed.
        """
        return self.layout.kubeconfig(user, groups)

    def processes(self) -> list[Identity]:
        """Its living processes."""
        return self._supervisor.strays()

    def start(self) -> ControlPlane:
        """Start everything and return once it answers: about 5 s."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the processes at once and remove the folder."""
        self._supervisor.end(self._supervisor.parts(), grace=0)
        self._folder.cleanup()

    def _start(self) -> None:
        setpriv = shutil.which("setpriv")
        within = [setpriv, "--pdeathsig", signal.SIGKILL.name, "--"] if setpriv else []
        start = functools.partial(self._supervisor.start, within=within)
        extra = ["--endpoint-reconciler-type=none"]
        if not self._controller_manager:
            extra.append("--disable-admission-plugins=ServiceAccount")
        start("etcd", etcd_command(self.layout))
        start("kube-apiserver", apiserver_command(self.layout, *extra))
        wait_for_apiserver(self._supervisor, self.layout)
        if self._controller_manager:
            start("kube-controller-manager", controller_manager_command(self.layout))
            wait_for_controller_manager(self._supervisor, self.layout)

    def __enter__(self) -> ControlPlane:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _free_ports(address: str, count: int) -> list[int]:
    """Ports that are free now; held together while choosing, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((address, 0))
        return [int(each.getsockname()[1]) for each in sockets]
