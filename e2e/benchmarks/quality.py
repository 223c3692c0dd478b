"""Spoiled artifacts that pass, and good ones that are refused: there should be none of either.

`faults.py` makes and evaluates them in the toolchains' own image; what it prints is held here
against limits as a user would set them, by the operator's own gate.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop.api.quantizedmodel import Quality, QualityStatus
from quantop.contract import QualityReport
from quantop.reconcile import artifact, gate
from rich.console import Console
from rich.table import Table

from e2e.benchmarks import tooljob
from e2e.benchmarks.figures import Figure
from e2e.kubectl import Kubectl
from e2e.scenarios.team import Team, quantized_model
from e2e.store import SOURCES_BUCKET, TEXTS_BUCKET, Store

TIMEOUT_SECONDS = 3600.0
MODELS = ("tiny-llama", "tiny-phi3", "tiny-bert", "tiny-bert-classifier")
TEXTS = ("calibration.txt", "classification.jsonl", "evaluation.txt", "prompts.jsonl", "tasks/")
IMAGES = {
    ("GGUF", "Q8_0"): ("GGUF", "CompressedTensors", "ONNX", "MLX", "ONNXEncoder", "GGUFEncoder"),
    ("OpenVINO", "INT8"): ("OpenVINO",),
}
"""The formats that share an image, by a recipe whose Job shows it."""
COMMANDS = """
mkdir -p /work/made
python {files}/{script}.py {source} /work/made {arguments} 2>/dev/null
"""
REFERENCE_PERCENT = {
    "perplexity of the source": "0.1",
    "answers of the source": "0",
    "accuracy in tasks": "0",
    "perplexity of the artifact": "0.1",
    "mean KL divergence": "1",
    "99th percentile of KL divergence": "1",
    "top token agreement": "1",
}
"""How far our figures may be from those that others compute on the same windows."""


ENCODERS = {"ONNXEncoder": ("0.978", "0.966"), "GGUFEncoder": ("0.994", "0.989")}
"""The formats of models that read a text whole, and the similarities that 4 bits have to keep in
each: mean and 1st percentile. llama.cpp's blocks lose less than ONNX Runtime's."""


def limits(format_: str, bits_per_weight: float) -> Quality:
    """What may be lost, by the bits that an artifact's layers have.

    Of the smallest good one among the test models about a half more is allowed; they are small, and
    lose more than large ones.
    """
    if format_ in ENCODERS:
        return encoder_limits(format_, bits_per_weight)
    if bits_per_weight >= 7.5:
        given = {"increase": "0.5", "agreement": "97", "mean": "0.005", "p99": "0.05"}
    elif bits_per_weight >= 3.8:
        given = {"increase": "3", "agreement": "88", "mean": "0.02", "p99": "0.1"}
    else:
        given = {"increase": "30", "agreement": "60", "mean": "0.3", "p99": "1.5"}
    return Quality.model_validate(
        {
            "evaluation": {"uri": f"s3://{TEXTS_BUCKET}/evaluation.txt"},
            "maxPerplexityIncreasePercent": given["increase"],
            "minTopTokenAgreementPercent": given["agreement"],
            "maxMeanKLDivergence": given["mean"],
            "maxP99KLDivergence": given["p99"],
        }
    )


def encoder_limits(format_: str, bits_per_weight: float) -> Quality:
    """The same of models that read a text whole; `held` takes those of the model's kind."""
    high = bits_per_weight >= 7.5
    mean, p1 = ("0.999", "0.998") if high else ENCODERS[format_]
    return Quality.model_validate(
        {
            "evaluation": {"uri": f"s3://{TEXTS_BUCKET}/classification.jsonl"},
            "minMeanCosineSimilarity": mean,
            "minP1CosineSimilarity": p1,
            "minLabelAgreementPercent": "98" if high else "95",
            "maxMeanKLDivergence": "0.0001" if high else "0.001",
        }
    )


def held(limit: Quality, measured: QualityStatus) -> Quality:
    """The limits without those of the other kind of model that reads a text whole."""
    if measured.mean_cosine_similarity is not None:
        others = {"min_label_agreement_percent": None, "max_mean_kl_divergence": None}
    elif measured.label_agreement_percent is not None:
        others = {"min_mean_cosine_similarity": None, "min_p1_cosine_similarity": None}
    else:
        others = {}
    return limit.model_copy(update=others)


@dataclass(frozen=True)
class Verdict:
    """What became of one artifact; `by` is the reason it was kept back for, empty if it passed."""

    recipe: str
    fault: str
    by: str
    figures: str


def verdict(line: Mapping[str, Any], promised: float) -> Verdict:
    """Hold what the evaluate stage said of an artifact against limits for the bits `promised`."""
    recipe = " ".join(
        filter(None, (line["model"], line["format"], line["precision"], line["method"]))
    )
    if line["refused"]:
        return Verdict(recipe, line["fault"], line["refused"], line["message"][:100])
    measured = artifact.quality_status(QualityReport.model_validate(line["quality"]))
    assert measured is not None
    problem = gate.check(held(limits(line["format"], promised), measured), measured)
    bits = f"{line['quality']['quantizedBitsPerWeight']:.2f} bits"
    return Verdict(
        recipe, line["fault"], problem.reason if problem else "", f"{bits}, {figures(measured)}"
    )


def figures(measured: QualityStatus) -> str:
    """What was measured, in short."""
    if measured.mean_cosine_similarity is not None:
        return (
            f"similarity {measured.mean_cosine_similarity} (1 %: {measured.p1_cosine_similarity})"
        )
    if measured.label_agreement_percent is not None:
        return (
            f"label agreement {measured.label_agreement_percent} %, accuracy "
            f"{measured.baseline_accuracy_percent} % -> {measured.accuracy_percent} %, "
            f"divergence {measured.mean_kl_divergence}"
        )
    return (
        f"perplexity {measured.increase_percent} %, agreement "
        f"{measured.top_token_agreement_percent} %, divergence {measured.mean_kl_divergence} "
        f"(99 %: {measured.p99_kl_divergence})"
    )


def verdicts(log: str, bands: Mapping[str, Mapping[str, str]]) -> list[Verdict]:
    """The verdict on every artifact that `faults.py` printed a line of."""
    return [
        verdict(line, float(bands[f"{line['format']}/{line['precision']}"]["min"]))
        for line in map(json.loads, log.splitlines())
    ]


def measure(kubectl: Kubectl, team: Team) -> list[Figure]:
    """Make and judge them all; prints the whole table."""
    bands = {
        f"{quantizer['spec']['format']}/{precision['name']}": precision["bitsPerWeight"]
        for quantizer in kubectl.find("quantizers")
        for precision in quantizer["spec"]["precisions"]
        if "bitsPerWeight" in precision
    }

    # Their Jobs' pods show which images the cluster converts with, and within which limits.
    names = {
        recipe: team.apply(quantized_model(f"quality-{recipe[0].lower()}", recipe, serving=None))
        for recipe in IMAGES
    }
    pods = {}
    for recipe, name in names.items():
        team.ready(name)
        (pods[recipe],) = team.pods(name, "convert")

    def run(script: str, recipe: tuple[str, str], *arguments: str) -> str:
        commands = COMMANDS.format(
            files=tooljob.FILES_DIR,
            script=script,
            source=tooljob.SOURCE_DIR,
            arguments=" ".join(arguments),
        )
        wanted = tooljob.ToolJob(
            f"bench-{script}-{recipe[0].lower()}",
            commands,
            (
                *((SOURCES_BUCKET, f"{model}/") for model in MODELS),
                *((TEXTS_BUCKET, text) for text in TEXTS),
            ),
            {f"{script}.py": Path(__file__).with_name(f"{script}.py").read_text()},
            {"BANDS": json.dumps(bands)},
        )
        store = Store.from_environment()
        return tooljob.run(kubectl, pods[recipe], store, wanted, TIMEOUT_SECONDS).log

    agreement = agrees(run("references", ("GGUF", "Q8_0")))
    logs = [run("faults", recipe, *formats) for recipe, formats in IMAGES.items()]
    return [*agreement, *report([each for log in logs for each in verdicts(log, bands)])]


def agrees(log: str) -> list[Figure]:
    """How far our figures are from those that `references.py` had others compute."""
    (line,) = (line for line in log.splitlines() if line.startswith("figures: "))
    return [
        Figure(
            f"{each['what']}: difference from {each['who']}",
            f"{100 * abs(each['ours'] / each['theirs'] - 1):.3f} %",
            f"{REFERENCE_PERCENT[each['what']]} %",
            f"{each['ours']} and {each['theirs']}",
        )
        for each in json.loads(line.removeprefix("figures: "))
    ]


def report(found: list[Verdict]) -> list[Figure]:
    """Print the table, and sum it up."""
    table = Table("artifact", "fault", "kept back by", "measured, or why", title="quality gate")
    for each in found:
        table.add_row(each.recipe, each.fault or "(good)", each.by or "passed", each.figures)
    Console(width=200).print(table)
    spoiled = [each for each in found if each.fault]
    good = [each for each in found if not each.fault]
    passed = [f"{each.recipe}: {each.fault}" for each in spoiled if not each.by]
    refused = [f"{each.recipe}: {each.by}" for each in good if each.by]
    kinds = len({each.fault for each in spoiled})
    return [
        Figure(
            f"spoiled artifacts that pass, of {len(spoiled)} of {kinds} kinds",
            str(len(passed)),
            "0",
            "; ".join(passed),
        ),
        Figure(
            f"good artifacts that are refused, of {len(good)}",
            str(len(refused)),
            "0",
            "; ".join(refused),
        ),
    ]
