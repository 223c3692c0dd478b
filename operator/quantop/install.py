"""``python -m quantop.install``: what the chart's hooks do with the CRDs, as Helm itself does not.

Helm makes the CRDs of a chart's crds/ folder and never touches them again:

- ``upgrade`` brings them to this version;
- ``remove-models`` deletes every QuantizedModel and waits until the operator has let go of each;
- ``remove`` deletes the CRDs.
"""

import argparse
import sys
import time
from collections.abc import Callable

from kubernetes import client, config
from kubernetes.client import ApiException

from quantop.api.base import GROUP, VERSION
from quantop.api.crds import crds
from quantop.api.kinds import QUANTIZED_MODEL

FIELD_MANAGER = "quantop"
APPLY = "application/apply-patch+yaml"
POLL_SECONDS = 2.0


def upgrade() -> None:
    """Apply the CRDs of this version. Raises ApiException."""
    api = client.ApiextensionsV1Api()
    for crd in crds():
        name = crd["metadata"]["name"]
        api.patch_custom_resource_definition(
            name, crd, field_manager=FIELD_MANAGER, force=True, _content_type=APPLY
        )
        print(f"{name} is that of this version")


def remove_models() -> None:
    """Delete all QuantizedModels and wait until they are gone. Raises ApiException."""
    api = client.CustomObjectsApi()
    kind = (GROUP, VERSION, QUANTIZED_MODEL.plural)

    def found() -> list[dict[str, str]]:
        items = api.list_cluster_custom_object(*kind)["items"]
        return [item["metadata"] for item in items]

    for model in found():
        api.delete_namespaced_custom_object(
            GROUP, VERSION, model["namespace"], QUANTIZED_MODEL.plural, model["name"]
        )
    while left := found():
        print(f"waiting for {len(left)} QuantizedModels to go", flush=True)
        time.sleep(POLL_SECONDS)


def remove() -> None:
    """Delete the CRDs, and with them every object of their kinds. Raises ApiException."""
    api = client.ApiextensionsV1Api()
    for crd in crds():
        try:
            api.delete_custom_resource_definition(crd["metadata"]["name"])
        except ApiException as error:
            if error.status != 404:
                raise


COMMANDS: dict[str, Callable[[], None]] = {
    "upgrade": upgrade,
    "remove-models": remove_models,
    "remove": remove,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 1 with the API server's words when it refuses."""
    parser = argparse.ArgumentParser(prog="python -m quantop.install", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    command = COMMANDS[parser.parse_args(arguments).command]
    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    try:
        command()
    except ApiException as error:
        print(f"the API server says {error.status}: {error.body}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
