"""Install the operator by its Helm chart, and what a platform team adds: a store and namespaces.

e2e/cluster/exec python -m e2e.install
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e.cluster.paths import REPOSITORY
from e2e.diagnose import why_not_running
from e2e.kubectl import Kubectl, KubectlError
from e2e.store import ARTIFACTS_BUCKET, Store, push_test_models

CHART = REPOSITORY / "charts" / "quantop"
RELEASE = "quantop"
SYSTEM_NAMESPACE = "quantop-system"
STORE_NAME = "default"
WRITER_SECRET = "quantop-store-writer"
READER_SECRET = "quantop-store-reader"


def install_operator(
    registry: str,
    digests: Path | None = None,
    hub_endpoint: str = "",
    values: Path | None = None,
) -> None:
    """Install or upgrade the chart and wait until it runs; ``digests`` is a JSON file that maps
    image repositories to digests, ``hub_endpoint`` a model hub in place of the public one,
    ``values`` a file with more values of the chart.

    Raises:
        subprocess.CalledProcessError: helm failed; it said why on stderr.
    """
    kubectl = Kubectl()
    if kubectl.get("crd", "quantizedmodels.quantop.dev"):
        # helm upgrade asks for the kind of every object before its hooks run: docs/install.md.
        kubectl.apply_path(REPOSITORY / "crds")
    pinned = json.loads(digests.read_text()) if digests else {}
    chosen = {
        "images": {"registry": registry, "digests": pinned},
        "operator": {"hubEndpoint": hub_endpoint},
    }
    subprocess.run(
        [
            "helm", "upgrade", "--install", RELEASE, str(CHART),
            f"--namespace={SYSTEM_NAMESPACE}", "--wait", "--timeout=5m", "--values=-",
            *([f"--values={values}"] if values else []),
        ],
        input=json.dumps(chosen), text=True, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def ensure_namespace(kubectl: Kubectl, name: str, store: Store | None = None) -> None:
    """A namespace with Pod Security ``restricted`` enforced; with the store's Secrets in it when
    a store is given."""
    level = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
    }
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": level}}
    )
    if store is not None:
        put_store_secrets(kubectl, name, store)


def put_store_secrets(kubectl: Kubectl, namespace: str, store: Store) -> None:
    """The Secrets that the ModelStore names, as a platform team puts them into a namespace."""
    keys = {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key}
    kubectl.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace},
                "stringData": keys,
            }
            for name in (WRITER_SECRET, READER_SECRET)
        )
    )


def model_store(store: Store) -> dict[str, Any]:
    """The ModelStore that objects use unless they name another."""
    s3: dict[str, Any] = {"bucket": ARTIFACTS_BUCKET, "region": store.region}
    if store.endpoint_in_cluster:
        s3["endpoint"] = store.endpoint_in_cluster
    return {
        "apiVersion": "quantop.dev/v1alpha1",
        "kind": "ModelStore",
        "metadata": {"name": STORE_NAME},
        "spec": {
            "s3": s3,
            "credentials": {"writerSecretName": WRITER_SECRET, "readerSecretName": READER_SECRET},
        },
    }


def why_not(kubectl: Kubectl) -> Iterator[str]:
    """What the pods of a release that did not come up have to say."""
    for pod in kubectl.find("pods", SYSTEM_NAMESPACE):
        yield from why_not_running(kubectl, pod)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m e2e.install", description=__doc__)
    parser.add_argument("--registry", required=True, help="where the images were pushed to")
    parser.add_argument("--digests", type=Path, help="digests.json of the image build")
    parser.add_argument("--hub-endpoint", default="", help="a model hub in place of the public one")
    parser.add_argument("--values", type=Path, help="more values for the chart")
    options = parser.parse_args(arguments)
    try:
        store = Store.from_environment()
        kubectl = Kubectl()
        ensure_namespace(kubectl, SYSTEM_NAMESPACE)
        install_operator(options.registry, options.digests, options.hub_endpoint, options.values)
        kubectl.apply(model_store(store))
    except KeyError as error:
        print(f"the environment variable {error} is missing", file=sys.stderr)
    except KubectlError as error:
        print(error, file=sys.stderr)
    except subprocess.CalledProcessError:
        print(*why_not(Kubectl()), sep="\n", file=sys.stderr)
    else:
        print(f"operator in namespace {SYSTEM_NAMESPACE}, ModelStore {STORE_NAME}")
        size = push_test_models(store.client())
        print(f"test models and texts in the store: {size / 1e6:.1f} MB")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
