"""``python -m quantop_registry``: the registry, told what it needs by its environment."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from quantop_registry.app import Delivery, Registry, create_app
from quantop_registry.cluster import SERVICE_ACCOUNT, Cluster
from quantop_registry.images import Images
from quantop_registry.models import Models

PORT = 8080
DRAIN_SECONDS = 20
"""What requests are given to end, after which a client continues elsewhere."""


def registry(variables: Mapping[str, str]) -> Registry:
    """The registry that the environment asks for."""
    host, port = variables["KUBERNETES_SERVICE_HOST"], variables["KUBERNETES_SERVICE_PORT"]
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    account = Path(variables.get("QUANTOP_REGISTRY_SERVICE_ACCOUNT", SERVICE_ACCOUNT))
    return Registry(
        Models(Cluster(server, account), variables["QUANTOP_REGISTRY_STORE"]),
        Images(variables["QUANTOP_REGISTRY_OLLAMA"], Path(variables["OLLAMA_MODELS"])),
        Delivery(
            redirects=variables["QUANTOP_REGISTRY_WEIGHTS"] == "Redirect",
            endpoint=variables.get("QUANTOP_REGISTRY_ENDPOINT") or None,
            seconds=int(variables["QUANTOP_REGISTRY_URL_SECONDS"]),
        ),
    )


def main() -> int:
    """Answer until a signal comes."""
    uvicorn.run(
        create_app(registry(os.environ)),
        host="0.0.0.0",
        port=int(os.environ.get("QUANTOP_REGISTRY_PORT", PORT)),
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
