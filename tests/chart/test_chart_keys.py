"""Whether what the chart's Quantizers make of one source is told apart in the store."""

from collections import defaultdict

import yaml
from quantop.api.modelstore import ModelStoreSpec
from quantop.api.quantizedmodel import QuantizedModelSpec, QuantizedModelStatus
from quantop.api.quantizer import QuantizerSpec
from quantop.contract import artifact_key
from quantop.reconcile import artifact, choices
from quantop.reconcile.snapshot import Snapshot
from quantop.settings import Settings

from e2e.conformance.rows import VALUES, Row, rows
from tests.operator import objects

STORE = ModelStoreSpec.model_validate(objects.store()["spec"])
QUANTIZERS = {
    name: QuantizerSpec.model_validate({**entry["spec"], "image": f"{entry['image']}@sha256:1"})
    for name, entry in yaml.safe_load(VALUES.read_text())["quantizers"].items()
}


def key(row: Row) -> str:
    """Of the row's artifact of one and the same source."""
    quantization = {
        "format": row.format,
        "precision": row.precision,
        "method": row.method,
        "quantizerName": row.quantizer,
        **({"calibration": {"uri": "s3://texts/calibration.txt"}} if row.calibrated else {}),
    }
    model = objects.model("team-a", quantization=quantization)
    snapshot = Snapshot(
        model=model,
        spec=QuantizedModelSpec.model_validate(model["spec"]),
        status=QuantizedModelStatus(),
        settings=Settings("worker"),
        quantizers=QUANTIZERS,
    )
    chosen = choices.choose_quantizer(snapshot)
    assert isinstance(chosen, choices.ChosenQuantizer), chosen
    task = artifact.conversion_task(snapshot, STORE, chosen)
    return artifact_key("s3:1", task.recipe, task.calibration, "s3:2")


def test_no_two_quantizers_give_each_other_their_artifacts() -> None:
    """Some have one image and one format, and differ in a variable: who asks for CUDA's graph must
    not be given a CPU's."""
    owners = defaultdict(set)
    for row in rows():
        owners[key(row)].add(row.id)
    assert len(owners) > 100
    assert [each for each in owners.values() if len(each) > 1] == []
