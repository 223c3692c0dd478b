"""Certificates by `openssl` (3.0 or newer): one authority, and what it signs."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import write

_DAYS = "3650"
_CONFIG = "[req]\ndistinguished_name=name\n[name]\n"


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder; what exists there already is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._config = folder / "openssl.cnf"
        if not self._config.exists():
            write(self._config, _CONFIG)
        self.certificate = self._pair("ca").certificate
        if not self.certificate.exists():
            self._make(
                "ca",
                "/CN=quantop-cluster-ca",
                ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"],
                signed=False,
            )

    def issue(
        self, name: str, common_name: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> Certificate:
        """A certificate for clients and servers; `hosts` are `DNS:...` and `IP:...` names."""
        pair = self._pair(name)
        if not pair.certificate.exists():
            subject = "".join(f"/O={group}" for group in groups) + f"/CN={common_name}"
            extensions = [
                "basicConstraints=critical,CA:FALSE",
                "keyUsage=critical,digitalSignature",
                "extendedKeyUsage=clientAuth,serverAuth",
            ]
            if hosts:
                extensions.append(f"subjectAltName={','.join(hosts)}")
            self._make(name, subject, extensions, signed=True)
        return pair

    def signing_key(self) -> tuple[Path, Path]:
        """The key pair that signs service account tokens: (private, public)."""
        private, public = self.folder / "tokens.key", self.folder / "tokens.pub"
        if not public.exists():
            _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
            _openssl("ec", "-in", private, "-pubout", "-out", public)
        return private, public

    def kubeconfig(self, path: Path, server: str, user: Certificate) -> Path:
        """Write a kubeconfig that carries its certificates inside."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "cluster",
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": _embedded(self.certificate),
                    },
                }
            ],
            "users": [
                {
                    "name": "user",
                    "user": {
                        "client-certificate-data": _embedded(user.certificate),
                        "client-key-data": _embedded(user.key),
                    },
                }
            ],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "user"}}],
            "current-context": "cluster",
        }
        return write(path, json.dumps(document, indent=1), mode=0o600)

    def _pair(self, name: str) -> Certificate:
        return Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _make(self, name: str, subject: str, extensions: list[str], *, signed: bool) -> None:
        pair = self._pair(name)
        arguments: list[str | Path] = ["req", "-x509", "-config", self._config, "-days", _DAYS]
        arguments += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        arguments += ["-subj", subject, "-keyout", pair.key, "-out", f"{pair.certificate}.new"]
        for extension in extensions:
            arguments += ["-addext", extension]
        if signed:
            authority = self._pair("ca")
            arguments += ["-CA", authority.certificate, "-CAkey", authority.key]
        _openssl(*arguments)
        # The certificate counts as made once it has its name, so that a kill leaves no half pair.
        Path(f"{pair.certificate}.new").replace(pair.certificate)


def _embedded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _openssl(*arguments: str | Path) -> None:
    try:
        done = subprocess.run(
            ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ClusterError("openssl is not installed; `apt-get install openssl`") from None
    if done.returncode:
        raise ClusterError(f"openssl {arguments[0]} failed (3.0 or newer is needed): {done.stderr}")
