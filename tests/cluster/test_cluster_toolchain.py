"""Every group is pinned, and what is built already is recognised."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e.cluster import toolchain
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import TOOLS

OWN = {"pause"}  # a program of ours, without requirements


def test_every_folder_is_a_group() -> None:
    assert {folder.name for folder in TOOLS.iterdir()} == toolchain.GROUPS.keys()


@pytest.mark.parametrize("group", toolchain.GROUPS.values(), ids=lambda group: group.name)
def test_a_group_names_its_programs_and_their_sums(group: toolchain.Group) -> None:
    module = (group.folder / "go.mod").read_text()
    assert re.search(r"^tool\b", module, re.MULTILINE)
    if group.name not in OWN:
        sums = (group.folder / "go.sum").read_text()
        required = re.findall(r"^\t(\S+) (v\S+) // indirect$", module, re.MULTILINE)
        assert required
        replaced = set(re.findall(r"^replace (\S+) =>", module, re.MULTILINE))
        for path, version in required:
            if path not in replaced:
                assert f"{path} {version}/go.mod h1:" in sums


def test_the_programs_know_the_version_of_kubernetes() -> None:
    flags = " ".join(toolchain.GROUPS["kubernetes"].flags())
    assert re.search(r"version\.gitVersion=v1\.\d+\.\d+", flags)
    assert re.search(r"version\.gitMinor=\d+ ", flags)


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"no group \['kubernets'\].*kubernetes"):
        toolchain.build(["kubernets"], print)


def test_a_program_that_is_not_built_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTOP_CACHE", str(tmp_path))
    with pytest.raises(ClusterError, match=r"python -m e2e\.cluster build"):
        toolchain.binary("kubectl")


def test_a_group_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTOP_CACHE", str(tmp_path))
    said: list[str] = []
    toolchain.build(["pause"], said.append)
    assert said[0] == "building pause ..."
    assert toolchain.binary("pause").exists()
    toolchain.build(["pause"], said.append)
    assert len(said) == 2
    toolchain.binary("pause").unlink()
    toolchain.build(["pause"], said.append)
    assert len(said) == 4
