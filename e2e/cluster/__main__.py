"""`python -m e2e.cluster`: the command line."""

from __future__ import annotations

import argparse
import sys

from e2e.cluster import toolchain
from e2e.cluster.errors import ClusterError


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it did what it says."""
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the programs into the cache")
    build.add_argument("group", nargs="*", help=f"default all: {', '.join(toolchain.GROUPS)}")
    chosen = parser.parse_args(arguments)
    try:
        toolchain.build(chosen.group or list(toolchain.GROUPS), say)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
