"""Generated files: up to date, refused when they are not, and schemas that say what the CRDs do."""

import json
from pathlib import Path
from typing import Annotated

import jsonschema
import pytest
import yaml
from pydantic import Field
from quantop.api import generate
from quantop.api.base import ApiModel
from quantop.api.crds import structural
from quantop.api.kinds import KINDS, Kind

from tests.api.manifests import good, put
from tests.kube import WHOLE_EXAMPLES


def test_everything_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_check_fails_on_a_stale_file_and_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "REPOSITORY", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    stale = tmp_path / "crds" / "quantizers.yaml"
    stale.write_text(stale.read_text() + "\n")
    assert generate.main(["--check"]) == 1
    assert "crds/quantizers.yaml is out of date: run `make generate`" in capsys.readouterr().err
    assert stale.read_text().endswith("\n\n")


def test_the_chart_has_the_same_crds() -> None:
    files = dict(generate.generated())
    ours = {path.name: text for path, text in files.items() if path.parent == Path("crds")}
    chart = Path("charts/quantop/crds")
    charts = {path.name: text for path, text in files.items() if path.parent == chart}
    assert ours == charts
    assert len(ours) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_json_schema_judges_as_the_api_server(kind: Kind) -> None:
    """For editors and CI, which have no API server."""
    path = Path("docs/reference", f"{kind.singular}.schema.json")
    schema = json.loads(dict(generate.generated())[path])
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(good(kind.name))
    assert not validator.is_valid(put(good(kind.name), "spec.unknown", 1))
    assert not validator.is_valid(put(good(kind.name), "apiVersion", "quantop.dev/v1"))
    without = good(kind.name)
    del without["spec"]
    assert not validator.is_valid(without)


def test_the_json_schemas_take_the_examples() -> None:
    files = dict(generate.generated())
    seen = 0
    for file in WHOLE_EXAMPLES:
        for document in yaml.safe_load_all(file.read_text()):
            name = Path("docs/reference", f"{document['kind'].lower()}.schema.json")
            if name in files and document["apiVersion"].startswith("quantop.dev/"):
                jsonschema.validate(document, json.loads(files[name]))
                seen += 1
    assert seen >= 6


def test_the_reference_names_every_field() -> None:
    text = dict(generate.generated())[Path("docs/reference/api.md")]
    for field in ("spec.source.uri", "spec.precisions[].methods[].calibration", "spec.s3.bucket"):
        assert f"`{field}`" in text
    assert "metadata.name must begin with a letter" in text


def test_what_a_crd_cannot_say_is_an_error() -> None:
    class Either(ApiModel):
        value: Annotated[int, Field(ge=0)] | Annotated[str, Field(max_length=3)]

    class Multiple(ApiModel):
        value: Annotated[int, Field(multiple_of=3)]

    with pytest.raises(ValueError, match="one of several types"):
        structural(Either)
    with pytest.raises(ValueError, match="cannot say multipleOf"):
        structural(Multiple)
