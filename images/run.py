"""Run a command with what an image holds: `python -m images.run quantop/quantizer-core python ...`

The repository and the temporary folder are where they are on this machine, and so are the network,
the user and the environment, but for what the image's own says. Tests run a toolchain so that only
its image has.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from images.build import (
    BUILDAH,
    ENGINES,
    REPOSITORY,
    Builder,
    add_engine,
    default_cache,
    project_version,
)

OWN = ("PATH", "HOME", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_", "VIRTUAL_ENV", "PYTHONHOME")
"""Variables of which the image has its own."""
ENTER = """
set -e
PATH=$PATH:/usr/sbin:/sbin
root=$1 user=$2 here=$3 folders=$4
shift 4
for folder in /proc /dev $folders; do
    mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
done
exec chroot --userspec="$user" "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$here" "$@"
"""
"""In a mount namespace of its own: `buildah run` passes no signal on, and lowers limits."""


@contextmanager
def command(
    engine: str, reference: str, environment: Mapping[str, str]
) -> Iterator[tuple[list[str], Mapping[str, str]]]:
    """What runs a command in a container of the image, and in which environment that is to be
    started; the container goes with it."""
    folders = list(dict.fromkeys((tempfile.gettempdir(), str(REPOSITORY), os.getcwd())))
    user = f"{os.getuid()}:{os.getgid()}"
    given = {name: value for name, value in environment.items() if name not in OWN}
    if engine == "buildah":
        container = said(*BUILDAH, "from", "--pull=never", reference)
        try:
            root = said(*BUILDAH, "mount", container)
            own = json.loads(said(*BUILDAH, "inspect", container))["OCIv1"]["config"]["Env"]
            variables = dict(each.split("=", 1) for each in own)
            enter = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", ENTER, "enter"]
            yield [*enter, root, user, os.getcwd(), " ".join(folders)], variables | given
        finally:
            said(*BUILDAH, "rm", container)
        return
    start = [engine, "run", "--rm", "--interactive", "--network=host", f"--user={user}"]
    start += [f"--volume={folder}:{folder}" for folder in folders]
    start += [f"--env={name}" for name in given]
    # The image's own entry point is the server that it is for.
    start += ["--entrypoint="]
    yield [*start, f"--workdir={os.getcwd()}", reference], environment


def said(*command: str) -> str:
    """What a command printed.

    Raises:
        CalledProcessError: it failed, and said why.
    """
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(prog="images.run", description="Run a command in an image.")
    add_engine(parser, shutil.which)
    parser.add_argument("image", help="as `images.build` names it; built before")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args(arguments)
    builder = Builder(ENGINES[asked.engine], default_cache() / "images", "", project_version())
    with command(asked.engine, builder.local(asked.image), os.environ) as (start, environment):
        process = subprocess.Popen([*start, *asked.command], env=environment)

        def forward(number: int, _: FrameType | None) -> None:
            process.send_signal(number)

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, forward)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
