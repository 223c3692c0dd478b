"""Bring up, look into and take away a real Kubernetes on this machine."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from e2e.cluster import enter, prerequisites, toolchain
from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.names import DEFAULT_NAME, MAX_NODES, Names
from e2e.cluster.processes import tail


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what it says."""
    chosen = _parser().parse_args(arguments)
    try:
        return _run(chosen)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what runs already is left: `up` goes on, `down` ends it")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    parser.add_argument(
        "--name", help=f"which cluster (default: $QUANTOP_CLUSTER, else {DEFAULT_NAME})"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prerequisites", help="install what the machine lacks, by apt")
    build = commands.add_parser("build", help="build the programs into the cache")
    build.add_argument("group", nargs="*", help=f"default all: {', '.join(toolchain.GROUPS)}")
    up = commands.add_parser("up", help="bring the cluster up, or repair it")
    up.add_argument("--nodes", type=int, metavar="N", help=f"1 to {MAX_NODES} (default 1)")
    down = commands.add_parser("down", help="take the cluster away")
    down.add_argument("--purge", action="store_true", help="its buckets, images and logs too")
    commands.add_parser("status", help="what runs; fails unless everything does")
    logs = commands.add_parser("logs", help="the end of a part's log, or the list of logs")
    logs.add_argument("part", nargs="?")
    logs.add_argument("--lines", type=int, default=50)
    run = commands.add_parser("exec", help="run a command inside the cluster's network")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    return parser


def _run(chosen: argparse.Namespace) -> int:
    if chosen.command in ("up", "down") and enter.INSIDE in os.environ:
        raise ClusterError(f"`{chosen.command}` does not work inside e2e/cluster/exec")
    cluster = Cluster(Names.of(chosen.name), _say)
    match chosen.command:
        case "prerequisites":
            prerequisites.install(_say)
        case "build":
            toolchain.build(chosen.group or list(toolchain.GROUPS), _say)
        case "up":
            cluster.up(chosen.nodes)
        case "down":
            start = time.monotonic()
            cluster.down(purge=chosen.purge)
            _say(f"cluster {cluster.names.cluster} is gone ({time.monotonic() - start:.0f} s)")
        case "status":
            return _status(cluster)
        case "logs":
            _logs(cluster, chosen.part, chosen.lines)
        case "exec":
            enter.run(cluster.names, chosen.words)
    return 0


def _status(cluster: Cluster) -> int:
    parts = cluster.parts()
    if not parts:
        _say(f"cluster {cluster.names.cluster} is down")
        return 1
    for part in parts:
        _say(f"{part.name:26} {f'pid {part.pid}' if part.pid else 'ENDED':12} {part.log}")
    _say(f"{'KUBECONFIG':26} {cluster.layout.admin_kubeconfig()}")
    return 0 if all(part.pid for part in parts) else 1


def _logs(cluster: Cluster, part: str | None, lines: int) -> None:
    logs = sorted(cluster.supervisor.logs.glob("*.log"))
    if part is None:
        for log in logs:
            _say(str(log))
        return
    if part not in [log.stem for log in logs]:
        raise ClusterError(f"no part {part}; there are: {', '.join(log.stem for log in logs)}")
    _say(tail(cluster.supervisor.log(part), lines))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
