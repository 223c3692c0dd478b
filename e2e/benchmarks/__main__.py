"""``e2e/cluster/exec python -m e2e.benchmarks [NAME...]``: run benchmarks and print figures."""

import argparse
import importlib
import secrets
import sys

from e2e.benchmarks.figures import show
from e2e.install import ensure_namespace
from e2e.kubectl import Kubectl
from e2e.scenarios.team import Team
from e2e.store import Store, push_test_models

BENCHMARKS = ("latency", "overhead", "memory", "throughput")
"""Modules of this package, each with ``measure(kubectl, team) -> list[Figure]``."""
ON_REQUEST = ("quality",)
"""The same, of a quarter of an hour and more."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    known = (*BENCHMARKS, *ON_REQUEST)
    parser = argparse.ArgumentParser(prog="python -m e2e.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    names = parser.parse_args(arguments).names or BENCHMARKS
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    kubectl, store = Kubectl(), Store.from_environment()
    push_test_models(store.client())
    for name in names:
        team = Team(kubectl, f"bench-{secrets.token_hex(3)}")
        ensure_namespace(kubectl, team.namespace, store)
        try:
            measured = importlib.import_module(f"e2e.benchmarks.{name}").measure(kubectl, team)
            show(name, measured)
        finally:
            kubectl.run(
                "delete", "quantizedmodels", "--all", f"--namespace={team.namespace}", timeout=600
            )
            kubectl.delete("namespace", team.namespace, "", "--wait=false")
    return 0


if __name__ == "__main__":
    sys.exit(main())
