"""Images are built in order and only when an input changed; digests of pushed ones are kept."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from images import build, run

# Keeps an "image" as a file named by its reference, whose text is a new identity each time.
FAKE_ENGINE = """#!/bin/sh
set -e
store={store}
case "$1" in
  build) shift
    while [ $# -gt 1 ]; do [ "$1" = --tag ] && tag="$2"; shift; done
    [ -e "$1/fails" ] && {{ echo "no such package"; exit 1; }}
    echo "$tag" >> $store/builds
    wc -l < $store/builds > "$store/$(echo "$tag" | tr / _)" ;;
  images)
    case "$*" in
      *Size*) echo "1 MB" ;;
      *) cat "$store/$(echo "$4" | tr / _)" ;;
    esac ;;
  push) shift
    while [ $# -gt 2 ]; do [ "$1" = --digestfile ] && file="$2"; shift; done
    echo "$2" >> $store/pushes
    echo "sha256:$(cat "$store/$(echo "$1" | tr / _)")" > "$file" ;;
esac
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of a parent, a child and an image that holds a package of the project."""
    root = tmp_path / "repository"
    for folder in ("images/parent", "images/child", "images/program", "operator/quantop"):
        (root / folder).mkdir(parents=True)
        (root / folder / "Dockerfile").write_text("FROM scratch\n")
    (root / "operator/quantop/__init__.py").write_text("")
    images = (
        build.Image("parent", "parent", {"BASE_IMAGE": "base"}, pushed=False),
        build.Image("quantop/child", "child", {"BASE_IMAGE": "parent"}),
        build.Image("quantop/program", "program", {"BASE_IMAGE": "base"}, packages=("quantop",)),
    )
    monkeypatch.setattr(build, "REPOSITORY", root)
    monkeypatch.setattr(build, "IMAGES", images)
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the fake engine keeps what it was told to do."""
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def engine(tmp_path: Path, store: Path) -> build.Engine:
    """An engine that builds nothing."""
    program = tmp_path / "fake-engine"
    program.write_text(FAKE_ENGINE.format(store=store))
    program.chmod(0o755)
    return build.Engine("fake", (str(program), "build"), (str(program), "push"))


def ensure(engine: build.Engine, tmp_path: Path, *names: str) -> build.Builder:
    """One run of the program."""
    builder = build.Builder(engine, tmp_path / "cache", "debian:stable", "1.2.3")
    for name in names:
        builder.ensure(name)
    return builder


def builds(store: Path) -> list[str]:
    """The references built, in order."""
    path = store / "builds"
    return path.read_text().split() if path.exists() else []


def test_a_parent_is_built_before_its_child(
    repository: Path, engine: build.Engine, store: Path, tmp_path: Path
) -> None:
    ensure(engine, tmp_path, "quantop/child")
    assert builds(store) == ["localhost/quantop/parent:latest", "localhost/quantop/child:latest"]


def test_nothing_is_built_again_while_no_input_changes(
    repository: Path, engine: build.Engine, store: Path, tmp_path: Path
) -> None:
    ensure(engine, tmp_path, "quantop/child", "quantop/program")
    built = builds(store)
    ensure(engine, tmp_path, "quantop/child", "quantop/program")
    assert builds(store) == built


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("images/parent/file", {"parent", "child"}),
        ("images/child/file", {"child"}),
        ("images/program/file", {"program"}),
        ("operator/quantop/module.py", {"program"}),
        ("operator/quantop/module.pyc", set()),
        ("README.md", set()),
    ],
)
def test_what_depends_on_a_changed_file_is_built_again(
    repository: Path,
    engine: build.Engine,
    store: Path,
    tmp_path: Path,
    changed: str,
    expected: set[str],
) -> None:
    ensure(engine, tmp_path, "quantop/child", "quantop/program")
    before = len(builds(store))
    (repository / changed).write_text("new")
    ensure(engine, tmp_path, "quantop/child", "quantop/program")
    again = {line.removeprefix("localhost/quantop/") for line in builds(store)[before:]}
    assert again == {f"{name}:latest" for name in expected}


def test_an_image_that_the_engine_lost_is_built_again(
    repository: Path, engine: build.Engine, store: Path, tmp_path: Path
) -> None:
    ensure(engine, tmp_path, "quantop/program")
    (store / "localhost_quantop_program:latest").unlink()
    ensure(engine, tmp_path, "quantop/program")
    assert len(builds(store)) == 2


def test_a_failed_build_names_the_image_and_the_last_lines(
    repository: Path, engine: build.Engine, tmp_path: Path
) -> None:
    (repository / "images/child/fails").write_text("")
    with pytest.raises(build.BuildError, match=r"(?s)quantop/child.*no such package"):
        ensure(engine, tmp_path, "quantop/child")


@pytest.fixture
def own_buildah(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real buildah, with a store of the test's own."""
    places = {"graphroot": tmp_path / "graph", "runroot": tmp_path / "run"}
    lines = ["[storage]", 'driver = "overlay"', *(f'{k} = "{v}"' for k, v in places.items())]
    (tmp_path / "storage.conf").write_text("\n".join(lines))
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    yield
    buildah("rm", "--all")


def buildah(*arguments: str) -> str:
    """What a command of buildah's prints."""
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("buildah"), reason="buildah needs root, or is not here"
)
@pytest.mark.parametrize("copied", ["/file", "/nothing"])
def test_a_build_removes_its_containers_and_no_others(
    repository: Path, own_buildah: None, tmp_path: Path, copied: str
) -> None:
    """One that ends well, and one that fails."""
    parent, child = (repository / "images" / name for name in ("parent", "child"))
    (parent / "file").write_text("")
    (parent / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    (child / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS parent\n"
        f"FROM scratch\nCOPY --from=parent {copied} /\n"
    )
    builder = build.Builder(build.ENGINES["buildah"], tmp_path / "cache", "scratch", "1.2.3")
    builder.ensure("parent")
    others = buildah("from", builder.reference("parent"))
    with nullcontext() if copied == "/file" else pytest.raises(build.BuildError):
        builder.ensure("quantop/child")
    assert buildah("containers", "--format", "{{.ContainerName}}").split() == [others]


def test_a_pushed_digest_is_kept_and_recorded(
    repository: Path, engine: build.Engine, store: Path, tmp_path: Path
) -> None:
    builder = ensure(engine, tmp_path, "quantop/child")
    digest = builder.push("quantop/child", "10.0.0.1:5000", "1.2.3", [], plain=True)
    assert digest == "sha256:2"
    assert (store / "pushes").read_text() == "docker://10.0.0.1:5000/quantop/child:1.2.3\n"
    again = ensure(engine, tmp_path, "quantop/child")
    assert again.built["quantop/child"].digest == digest


def test_digests_of_other_images_stay(tmp_path: Path) -> None:
    path = tmp_path / "digests.json"
    build.record_digest(path, "quantop/worker", "sha256:1")
    build.record_digest(path, "quantop/operator", "sha256:2")
    build.record_digest(path, "quantop/worker", "sha256:3")
    assert json.loads(path.read_text()) == {
        "quantop/operator": "sha256:2",
        "quantop/worker": "sha256:3",
    }


def test_images_are_named_with_or_without_the_prefix() -> None:
    assert build.select(["worker", "quantop/operator"]) == ["quantop/worker", "quantop/operator"]
    assert build.select(["quantizer-openvino"]) == ["quantop/quantizer-openvino"]
    with pytest.raises(build.BuildError, match="no image nothing; there are: llama-cpp"):
        build.select(["nothing"])


def test_the_demo_does_not_wait_for_what_it_does_not_use() -> None:
    every = [image.name for image in build.IMAGES]
    assert build.select([], every=True) == every
    others = {"quantop/quantizer-qnn", "quantop/quantizer-olive", "quantop/quantizer-openvino"}
    others |= {"quantop/quantizer-tensorflow"}
    others |= {"quantop/runtime-openvino", "quantop/runtime-mlx", "quantop/runtime-ollama"}
    assert build.select([]) == [name for name in every if name not in others]


def test_a_link_is_built_as_what_it_leads_to(
    repository: Path, engine: build.Engine, store: Path, tmp_path: Path
) -> None:
    """What images share is written once, and each holds its own copy."""
    (repository / "images/shared").mkdir()
    (repository / "images/shared/module.py").write_text("1")
    (repository / "images/child/shared").symlink_to("../shared")
    ensure(engine, tmp_path, "quantop/child")
    before = len(builds(store))
    (repository / "images/shared/module.py").write_text("2")
    ensure(engine, tmp_path, "quantop/child", "quantop/program")
    assert builds(store)[before:] == [
        "localhost/quantop/child:latest",
        "localhost/quantop/program:latest",
    ]


@pytest.mark.parametrize(
    ("registry", "plain"),
    [
        ("10.200.0.10:5000", True),
        ("127.0.0.1:5000", True),
        ("localhost:5000", True),
        ("localhost", True),
        ("ghcr.io", False),
        ("8.8.8.8:443", False),
    ],
)
def test_plain_http_is_for_private_addresses(registry: str, plain: bool) -> None:
    assert build.is_private_address(registry) is plain


def test_every_image_of_the_table_has_a_dockerfile_that_declares_its_parents() -> None:
    for image in build.IMAGES:
        text = (build.REPOSITORY / "images" / image.folder / "Dockerfile").read_text()
        for argument in image.parents:
            assert f"ARG {argument}" in text, f"{image.name} takes no {argument}"
        if image.pushed:
            assert "\nUSER 10001:10001\n" in text
            assert "org.opencontainers.image.licenses" in text


def test_a_command_in_an_image_has_the_files_and_the_environment_of_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With docker or podman; buildah is what `make test-toolchains` runs where it is installed."""
    monkeypatch.chdir(tmp_path)
    environment = {"WORK_DIR": "/w", "PATH": "/here", "HOME": "/home/me"}
    with run.command("podman", "localhost/quantop/torch:latest", environment) as (start, given):
        assert start[:2] == ["podman", "run"]
        assert start[-1] == "localhost/quantop/torch:latest"
        assert "--entrypoint=" in start
        assert f"--volume={tmp_path}:{tmp_path}" in start
        assert f"--workdir={tmp_path}" in start
        assert "--env=WORK_DIR" in start
        assert not {"--env=PATH", "--env=HOME"} & set(start), "the image has its own"
        assert given["WORK_DIR"] == "/w"
