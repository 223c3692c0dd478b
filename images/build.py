"""Build the container images and push them: `python -m images.build --registry HOST --push`.

An image is rebuilt only when its inputs changed: the files of its folder, its build arguments and
the identities of the images it is built from. That is more than speed: an artifact's key contains
the digest of the quantizer's image, so an image that did not change must keep its digest.

State lies in `$QUANTOP_CACHE/images`: one record per image, the staged build contexts, the
bootstrapped base image, and `digests.json`, which maps repositories to pushed digests for the
chart's values.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import ipaddress
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_BASE = "docker.io/library/python:3.11-slim-bookworm"
# What the bootstrapped base adds to Debian's smallest system; libnuma and libgomp are loaded by
# vLLM and torch.
BASE_PACKAGES = ("python3", "ca-certificates", "libgomp1", "libnuma1")
DEBIAN_SUITE = "bookworm"
SETTINGS = ("GOPROXY", "UV_DEFAULT_INDEX", "PYTORCH_INDEX", "TORCH_VERSION", "UV_IMAGE")
"""Build arguments that the environment may set for every image that declares them."""


@dataclass(frozen=True)
class Image:
    """One image; `name` is its repository below the registry, or a local name if not `pushed`.

    `parents` maps build arguments to the images they name. `extra` and `packages` put the project
    itself into the build context: `requirements.txt` locked by uv.lock for that extra, and the
    Python packages under `packages/`. One that is not a `default` is built when it is named or all
    are asked for: the demo does without it.
    """

    name: str
    folder: str
    parents: Mapping[str, str]
    pushed: bool = True
    extra: str = ""
    packages: tuple[str, ...] = ()
    wheels: bool = False
    default: bool = True


IMAGES = (
    Image("llama-cpp", "llama-cpp", {"BASE_IMAGE": "base"}, pushed=False),
    Image("torch", "torch", {"BASE_IMAGE": "base", "UV_IMAGE": "uv"}, pushed=False, wheels=True),
    Image(
        "quantop/operator",
        "operator",
        {"BASE_IMAGE": "base", "UV_IMAGE": "uv"},
        extra="operator",
        packages=("quantop",),
    ),
    Image(
        "quantop/worker",
        "worker",
        {"BASE_IMAGE": "base", "UV_IMAGE": "uv"},
        extra="worker",
        packages=("quantop", "quantop_registry", "quantop_worker"),
    ),
    Image(
        "quantop/quantizer-core",
        "quantizers/core",
        {"BASE_IMAGE": "torch", "UV_IMAGE": "uv", "LLAMA_CPP_IMAGE": "llama-cpp"},
    ),
    Image("quantop/runtime-vllm", "runtimes/vllm", {"BASE_IMAGE": "torch", "UV_IMAGE": "uv"}),
    Image(
        "quantop/runtime-onnxruntime",
        "runtimes/onnxruntime",
        {"BASE_IMAGE": "base", "UV_IMAGE": "uv"},
    ),
    Image(
        "quantop/runtime-llama-cpp",
        "runtimes/llama-cpp",
        {"BASE_IMAGE": "base", "LLAMA_CPP_IMAGE": "llama-cpp"},
    ),
    Image(
        "quantop/quantizer-openvino",
        "quantizers/openvino",
        {"BASE_IMAGE": "torch", "UV_IMAGE": "uv"},
        default=False,
    ),
    Image(
        "quantop/quantizer-olive",
        "quantizers/olive",
        {"BASE_IMAGE": "torch", "UV_IMAGE": "uv"},
        default=False,
    ),
    Image(
        "quantop/quantizer-qnn",
        "quantizers/qnn",
        {"BASE_IMAGE": "torch", "UV_IMAGE": "uv"},
        default=False,
    ),
    Image(
        "quantop/quantizer-tensorflow",
        "quantizers/tensorflow",
        {"BASE_IMAGE": "base", "UV_IMAGE": "uv"},
        default=False,
    ),
    Image(
        "quantop/runtime-openvino",
        "runtimes/openvino",
        {"BASE_IMAGE": "base", "UV_IMAGE": "uv"},
        default=False,
    ),
    Image(
        "quantop/runtime-mlx",
        "runtimes/mlx",
        {"BASE_IMAGE": "base", "UV_IMAGE": "uv"},
        default=False,
    ),
    Image(
        "quantop/runtime-ollama",
        "runtimes/ollama",
        {"BASE_IMAGE": "base", "UV_IMAGE": "uv", "GO_IMAGE": "go"},
        default=False,
    ),
)


class BuildError(Exception):
    """A build or push failed; the message names the image and the command's last lines."""


@dataclass(frozen=True)
class Engine:
    """How one container engine is asked to build, inspect and push."""

    name: str
    build: tuple[str, ...]
    push: tuple[str, ...]
    local_prefix: str = "localhost/"
    leaves_containers: bool = False

    @property
    def bootstraps(self) -> bool:
        """Whether the base image, uv's and Go's are made here: buildah suits machines with no way
        out."""
        return self.name == "buildah"

    def image_id(self, reference: str) -> str:
        """The local image's content id, empty when there is none."""
        result = subprocess.run(
            [self.push[0], "images", "--quiet", "--no-trunc", reference],
            capture_output=True,
            text=True,
        )
        return result.stdout.strip().splitlines()[0] if result.stdout.strip() else ""

    def forget(self, image_id: str) -> None:
        """Remove an image that was replaced, unless another one is made from it."""
        subprocess.run([self.push[0], "rmi", image_id], capture_output=True)

    @contextmanager
    def tidied(self) -> Iterator[list[str]]:
        """The command of one build, whose containers are removed when it is over.

        Buildah before 1.30 leaves the container of a stage that is nothing but FROM (its pull
        request 4595). Each container remembers the file of default mounts that its build was given:
        an empty one of its own tells those of this build from all others.
        """
        if not self.leaves_containers:
            yield [*self.build]
            return
        program, *rest = self.build
        before = self._containers()
        with tempfile.NamedTemporaryFile(prefix="quantop-build-") as mark:
            try:
                yield [program, "--default-mounts-file", mark.name, *rest]
            finally:
                for container in self._containers() - before:
                    if self._mounts_file(container) == mark.name:
                        subprocess.run([program, "rm", container], capture_output=True)

    def _containers(self) -> set[str]:
        command = [self.push[0], "containers", "--quiet", "--notruncate"]
        return set(subprocess.run(command, capture_output=True, text=True).stdout.split())

    def _mounts_file(self, container: str) -> str:
        command = [self.push[0], "inspect", "--type", "container"]
        command += ["--format", "{{.DefaultMountsFilePath}}", container]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    def size(self, reference: str) -> str:
        """The image's size as the engine prints it, e.g. `988 MB`."""
        command = [self.push[0], "images", "--format", "{{.Size}}", reference]
        return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]


BUILDAH = ("buildah", "--storage-driver", "overlay")
ENGINES = {
    "buildah": Engine(
        "buildah",
        (*BUILDAH, "bud", "--isolation", "chroot", "--network", "host"),
        (*BUILDAH, "push"),
        leaves_containers=True,
    ),
    "docker": Engine("docker", ("docker", "build"), ("docker", "push"), local_prefix=""),
    "podman": Engine("podman", ("podman", "build"), ("podman", "push")),
}


@dataclass
class Record:
    """What is remembered of an image: the hash of its inputs, the digest the registry knows."""

    inputs: str
    image_id: str
    size: str
    seconds: float
    digest: str = ""


class Builder:
    """Builds images in dependency order, each at most once a run."""

    def __init__(self, engine: Engine, cache: Path, base: str, version: str) -> None:
        self.engine = engine
        self.cache = cache
        self.base = base
        self.version = version
        self.table = {image.name: image for image in IMAGES}
        self.built: dict[str, Record] = {}

    # Names and records.

    def local(self, name: str) -> str:
        """The local reference of an image of the table."""
        short = name.removeprefix("quantop/")
        return f"{self.engine.local_prefix}quantop/{short}:latest"

    def _record_path(self, name: str) -> Path:
        return self.cache / "records" / f"{name.replace('/', '_')}.json"

    def _load(self, name: str) -> Record | None:
        try:
            return Record(**json.loads(self._record_path(name).read_text()))
        except (FileNotFoundError, TypeError, ValueError):
            return None

    def save(self, name: str, record: Record) -> None:
        """Remember `record`, replacing the old one in one step."""
        write_atomically(self._record_path(name), json.dumps(asdict(record), indent=1) + "\n")

    # Building.

    def ensure(self, name: str) -> Record:
        """Build `name` and what it is built from unless they are there already.

        Raises:
            BuildError: the engine failed.
        """
        if name not in self.built:
            with self._alone(name):
                if name == "base":
                    self.built[name] = self._ensure_base()
                elif name == "uv":
                    self.built[name] = self._ensure_uv()
                elif name == "go":
                    self.built[name] = self._ensure_go()
                else:
                    self.built[name] = self._ensure_image(self.table[name])
        return self.built[name]

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Keep other runs of this program off one image: two of them may share parents."""
        path = self._record_path(name).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def reference(self, name: str) -> str:
        """What a Dockerfile's argument for the parent is set to; empty keeps its default."""
        if name == "base" and self.base != "bootstrap":
            return self.base
        if name in ("uv", "go") and not self.engine.bootstraps:
            return os.environ.get(f"{name.upper()}_IMAGE", "")
        return self.local(name)

    def _ensure_image(self, image: Image) -> Record:
        # uv leaves nothing of its own in an image: another uv is no reason for another digest.
        identities = {parent: self.ensure(parent).image_id for parent in image.parents.values()}
        identities.pop("uv", None)
        context = self._stage(image)
        dockerfile = (context / "Dockerfile").read_text()
        arguments = {argument: self.reference(parent) for argument, parent in image.parents.items()}
        arguments |= {
            name: os.environ[name]
            for name in SETTINGS
            if os.environ.get(name) and name not in arguments and f"ARG {name}" in dockerfile
        }
        flags: list[str] = []
        for argument, value in sorted(arguments.items()):
            if value:
                flags += ["--build-arg", f"{argument}={value}"]
        wheels = os.environ.get("QUANTOP_WHEELS", "")
        if image.wheels and wheels:
            flags += ["--build-context", f"wheels={Path(wheels).resolve()}"]
        inputs = digest_of(
            {
                "files": tree_digest(context),
                "arguments": arguments,
                "parents": identities,
                "wheels": listing(Path(wheels)) if image.wheels and wheels else [],
            }
        )
        return self._build(image.name, context, flags, inputs)

    def _ensure_base(self) -> Record:
        """Make the base image by mmdebstrap, or take the one given as it is."""
        if self.base != "bootstrap":
            return Record(inputs=self.base, image_id=self.base, size="", seconds=0.0)
        context = self.cache / "contexts" / "base"
        archive = context / f"{digest_of([DEBIAN_SUITE, BASE_PACKAGES])[:12]}.tar"
        if not archive.exists():
            context.mkdir(parents=True, exist_ok=True)
            partial = archive.with_suffix(".partial")
            options = ["--quiet", "--variant=minbase", "--format=tar"]
            options.append(f"--include={','.join(BASE_PACKAGES)}")
            run(
                ["mmdebstrap", *options, DEBIAN_SUITE, str(partial)],
                "bootstrapping the base image",
            )
            partial.rename(archive)
        (context / "Dockerfile").write_text(f"FROM scratch\nADD {archive.name} /\n")
        stat = archive.stat()
        inputs = digest_of(
            {"archive": archive.name, "size": stat.st_size, "mtime": stat.st_mtime_ns}
        )
        return self._build("base", context, [], inputs)

    def _ensure_uv(self) -> Record:
        """An image that holds the uv in use at `/uv`, like the official one."""
        if not self.engine.bootstraps:
            return Record(inputs="", image_id=self.reference("uv"), size="", seconds=0.0)
        context = self.cache / "contexts" / "uv"
        context.mkdir(parents=True, exist_ok=True)
        # `uv` on PATH may be a launcher script; uv itself tells where its program lies.
        binary = run(["uv", "run", "--no-project", "printenv", "UV"], "looking for uv").strip()
        shutil.copy2(binary, context / "uv")
        (context / "Dockerfile").write_text("FROM scratch\nCOPY uv /uv\n")
        return self._build("uv", context, [], digest_of(tree_digest(context)))

    def _ensure_go(self) -> Record:
        """An image that holds the Go in use at `/usr/local/go`, like the official one."""
        if not self.engine.bootstraps:
            return Record(inputs="", image_id=self.reference("go"), size="", seconds=0.0)
        context = self.cache / "contexts" / "go"
        # Where the repository's go.mod files may make Go take a newer one than is installed.
        command = ["go", "-C", str(REPOSITORY / "images" / "runtimes" / "ollama")]
        version = run([*command, "env", "GOVERSION"], "looking for go").strip()
        archive = context / f"{version}.tar"
        if not archive.exists():
            context.mkdir(parents=True, exist_ok=True)
            partial = archive.with_suffix(".partial")
            root = Path(run([*command, "env", "GOROOT"], "looking for go").strip())
            with tarfile.open(partial, "w", dereference=True) as tar:
                for part in ("VERSION", "bin", "go.env", "lib", "pkg", "src"):
                    tar.add(root / part, f"usr/local/go/{part}")
            partial.rename(archive)
        (context / "Dockerfile").write_text(f"FROM scratch\nADD {archive.name} /\n")
        return self._build("go", context, [], version)

    def _build(self, name: str, context: Path, flags: Sequence[str], inputs: str) -> Record:
        """Run the engine unless the image of these inputs is there."""
        reference = self.local(name)
        known = self._load(name)
        if known and known.inputs == inputs and self.engine.image_id(reference) == known.image_id:
            print(f"{name:30} {known.size:>9}  unchanged", flush=True)
            return known
        command = ["--tag", reference, *flags]
        command += ["--label", f"org.opencontainers.image.version={self.version}"]
        certificates = os.environ.get("SSL_CERT_FILE", "")
        if certificates:
            command += ["--secret", f"id=ca,src={certificates}"]
        print(f"{name:30} building ...", flush=True)
        start = time.monotonic()
        log = self.cache / "logs" / f"{name.replace('/', '_')}.log"
        with self.engine.tidied() as build:
            output = run([*build, *command, str(context)], f"building {name}", log)
        seconds = time.monotonic() - start
        record = Record(
            inputs=inputs,
            image_id=self.engine.image_id(reference),
            size=self.engine.size(reference),
            seconds=round(seconds, 1),
        )
        self.save(name, record)
        if known and known.image_id != record.image_id:
            self.engine.forget(known.image_id)
        for line in output.splitlines():
            if line.startswith("torch: "):
                print(f"{'':30} {line}", flush=True)
        print(f"{name:30} {record.size:>9}  {seconds:.0f} s", flush=True)
        return record

    def _stage(self, image: Image) -> Path:
        """The build context: the image's folder, and the project's own parts that it asks for."""
        context = self.cache / "contexts" / image.name.replace("/", "_")
        shutil.rmtree(context, ignore_errors=True)
        shutil.copytree(
            REPOSITORY / "images" / image.folder,
            context,
            ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
        )
        for package in image.packages:
            shutil.copytree(
                REPOSITORY / "operator" / package,
                context / "packages" / package,
                ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
            )
        if image.extra:
            export = [
                "uv",
                "export",
                "--quiet",
                "--frozen",
                "--no-dev",
                "--no-emit-project",
                "--no-header",
            ]
            locked = run(
                [*export, "--no-annotate", "--extra", image.extra],
                f"exporting the lock for {image.name}",
            )
            (context / "requirements.txt").write_text(locked)
        return context

    # Pushing.

    def push(self, name: str, registry: str, tag: str, prefix: Sequence[str], plain: bool) -> str:
        """Push an image and return its digest (`sha256:...`).

        Raises:
            BuildError: the engine failed.
        """
        record = self.ensure(name)
        target = f"{registry}/{name}:{tag}"
        if self.engine.name == "docker":
            run(["docker", "tag", self.local(name), target], f"tagging {name}")
            run([*prefix, *self.engine.push, target], f"pushing {name}")
            template = "{{index .RepoDigests 0}}"
            pushed = run(["docker", "inspect", "--format", template, target], f"inspecting {name}")
            record.digest = pushed.strip().rpartition("@")[2]
        else:
            digest_file = self.cache / "digest"
            command = [*prefix, *self.engine.push, "--quiet", "--digestfile", str(digest_file)]
            command += [f"--tls-verify={str(not plain).lower()}", self.local(name)]
            run([*command, f"docker://{target}"], f"pushing {name}")
            record.digest = digest_file.read_text().strip()
        self.save(name, record)
        return record.digest


def run(command: Sequence[str], what: str, log: Path | None = None) -> str:
    """Run a command in the repository's root and return its output, kept in `log` too if named.

    Raises:
        BuildError: the exit status was not 0; the message says `what` was done.
    """
    result = subprocess.run(
        command,
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if log else subprocess.PIPE,
    )
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(result.stdout)
    if result.returncode:
        tail = "\n".join((result.stderr or result.stdout).splitlines()[-30:])
        raise BuildError(
            f"{what}: {shlex.join(command[:3])} ... exited {result.returncode}\n{tail}"
        )
    return result.stdout


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old or the new text, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def digest_of(value: object) -> str:
    """sha256 over canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tree_digest(folder: Path) -> list[tuple[str, bool, str]]:
    """(path, executable, sha256) of every file below `folder`, in order."""
    return [
        (
            str(path.relative_to(folder)),
            bool(path.stat().st_mode & 0o100),
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def listing(folder: Path) -> list[tuple[str, int]]:
    """(name, size) of a folder's files: wheels are immutable and too large to hash each time."""
    return sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())


def is_private_address(registry: str) -> bool:
    """Whether the registry is named by a private or loopback IP address, where plain HTTP is usual.

    >>> is_private_address("10.0.0.1:5000"), is_private_address("ghcr.io")
    (True, False)
    """
    host = registry.split("/")[0].rsplit(":", 1)[0]
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"


def default_cache() -> Path:
    """`$QUANTOP_CACHE`, or `quantop` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("QUANTOP_CACHE") or Path(root) / "quantop")


def project_version() -> str:
    """The version in pyproject.toml, which images are tagged with."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def select(names: Sequence[str], *, every: bool = False) -> list[str]:
    """The images asked for by name, with or without `quantop/`; when none is, the default ones, or
    `every` one.

    Raises:
        BuildError: a name is not in the table.
    """
    known = {image.name: image.name for image in IMAGES}
    known |= {image.name.removeprefix("quantop/"): image.name for image in IMAGES}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise BuildError(
            f"no image {', '.join(unknown)}; there are: {', '.join(i.name for i in IMAGES)}"
        )
    if names:
        return [known[name] for name in names]
    return [image.name for image in IMAGES if image.default or every]


def record_digest(path: Path, name: str, digest: str) -> None:
    """Add one digest to the JSON file that the chart is installed from."""
    digests = json.loads(path.read_text()) if path.exists() else {}
    digests[name] = digest
    write_atomically(path, json.dumps(digests, indent=2, sort_keys=True) + "\n")


def add_engine(parser: argparse.ArgumentParser, which: Callable[[str], str | None]) -> None:
    """The option that names a container engine: by default the first one installed."""
    installed = [name for name in ENGINES if which(name)]
    parser.add_argument("--engine", choices=sorted(ENGINES), default=(installed or ["docker"])[0])


def parse(
    arguments: Sequence[str] | None, which: Callable[[str], str | None]
) -> argparse.Namespace:
    """The command line; the engine defaults to the first one installed."""
    parser = argparse.ArgumentParser(prog="images.build", description="Build and push the images.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="images to build (default: what the demo needs)"
    )
    parser.add_argument("--all", action="store_true", help="build the others, too")
    add_engine(parser, which)
    parser.add_argument(
        "--base",
        default=os.environ.get("BASE_IMAGE", ""),
        help="base image, or 'bootstrap' to make one from Debian packages "
        f"(default: {DEFAULT_BASE}; with buildah: bootstrap)",
    )
    parser.add_argument("--registry", default="", help="push below this registry, e.g. ghcr.io")
    parser.add_argument(
        "--tag", default=project_version(), help="tag to push (default: the version)"
    )
    parser.add_argument("--push", action="store_true", help="push, and write digests.json")
    parser.add_argument("--push-prefix", default="", help="command to run the push with")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = parse(arguments, shutil.which)
    engine = ENGINES[options.engine]
    cache = default_cache() / "images"
    base = options.base or ("bootstrap" if engine.bootstraps else DEFAULT_BASE)
    builder = Builder(engine, cache, base, project_version())
    plain = is_private_address(options.registry)
    try:
        for name in select(options.names, every=options.all):
            builder.ensure(name)
            if options.push and builder.table[name].pushed:
                start = time.monotonic()
                prefix = shlex.split(options.push_prefix)
                digest = builder.push(name, options.registry, options.tag, prefix, plain)
                record_digest(cache / "digests.json", name, digest)
                print(f"{name:30} pushed in {time.monotonic() - start:.0f} s: {digest}", flush=True)
    except BuildError as error:
        print(f"images.build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
