"""What ``make demo CLUSTER=current`` needs of a cluster of yours, and whether it is there."""

import os
import shutil
import sys

from e2e.kubectl import Kubectl, KubectlError

NEEDS = """\
The demo on a cluster of yours needs:
  kubectl and helm        on PATH; the kubeconfig's current context may install a chart with CRDs
  the images              pullable from REGISTRY (default ghcr.io), as quantop/operator and so on;
                          `make images PUSH=1 REGISTRY=... CLUSTER=current` builds and pushes them,
                          then give DIGESTS=$QUANTOP_CACHE/images/digests.json, too
  an S3-compatible store  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and for any store
                          but Amazon's AWS_ENDPOINT_URL as this machine reaches it and, where pods
                          reach it otherwise, QUANTOP_STORE_ENDPOINT; the demo makes the buckets
                          models, datasets and artifacts unless they are there
  room                    for pods of 2 CPUs and 4 GiB; no GPU
"""


def missing() -> list[str]:
    """What is not there, in words."""
    programs = [f"the program {name}" for name in ("kubectl", "helm") if not shutil.which(name)]
    variables = [
        f"the variable {name}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        if not os.environ.get(name)
    ]
    return programs + variables


def main() -> int:
    """Say what is needed; 0 when it can be tried."""
    print(NEEDS)
    if lacking := missing():
        print(f"missing: {', '.join(lacking)}", file=sys.stderr)
        return 1
    try:
        context = Kubectl().run("config", "current-context").strip()
        Kubectl().run("get", "--raw=/readyz")
    except KubectlError as error:
        print(f"no cluster to talk to: {error}", file=sys.stderr)
        return 1
    print(f"using the context {context}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
