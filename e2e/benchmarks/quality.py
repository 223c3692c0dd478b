"""Spoiled artifacts that pass, and good ones that are refused: there should be none of either.

`faults.py` makes and evaluates them in the toolchains' own image; what it prints is held here
against limits as a user would set them, by the operator's own gate.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop.api.quantizedmodel import Quality
from quantop.contract import QualityReport
from quantop.reconcile import artifact, gate
from rich.console import Console
from rich.table import Table

from e2e.benchmarks import toolpod
from e2e.benchmarks.figures import Figure
from e2e.kubectl import Kubectl
from e2e.scenarios.team import Team, quantized_model
from e2e.store import SOURCES_BUCKET, TEXTS_BUCKET, Store

TIMEOUT_SECONDS = 3600.0
MODELS = ("tiny-llama", "tiny-phi3")
COMMANDS = """
mkdir -p /work/made
python {files}/{script}.py {source} /work/made 2>/dev/null
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


def limits(bits_per_weight: float) -> Quality:
    """What may be lost, by the bits that an artifact's layers have.

    Of the smallest good one among the test models about a half more is allowed; they are small, and
    lose more than large ones.
    """
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
    problem = gate.check(limits(promised), measured)
    return Verdict(
        recipe,
        line["fault"],
        problem.reason if problem else "",
        f"{line['quality']['quantizedBitsPerWeight']:.2f} bits, perplexity "
        f"{measured.increase_percent} %, agreement {measured.top_token_agreement_percent} %, "
        f"divergence {measured.mean_kl_divergence} (99 %: {measured.p99_kl_divergence})",
    )


def verdicts(log: str, bands: Mapping[str, Mapping[str, str]]) -> list[Verdict]:
    """The verdict on every artifact that `faults.py` printed a line of."""
    return [
        verdict(line, float(bands[f"{line['format']}/{line['precision']}"]["min"]))
        for line in map(json.loads, log.splitlines())
    ]


def measure(kubectl: Kubectl, team: Team) -> list[Figure]:
    """Make and judge them all; prints the whole table."""
    # Its Job's pod shows which images the cluster converts with, and within which limits.
    name = team.apply(quantized_model("quality", ("GGUF", "Q8_0"), serving=None))
    team.ready(name)
    (pod,) = team.pods(name, "convert")
    bands = {
        f"{quantizer['spec']['format']}/{precision['name']}": precision["bitsPerWeight"]
        for quantizer in kubectl.find("quantizers")
        for precision in quantizer["spec"]["precisions"]
        if "bitsPerWeight" in precision
    }

    def run(script: str, environment: Mapping[str, str]) -> str:
        wanted = toolpod.ToolPod(
            f"bench-{script}",
            COMMANDS.format(files=toolpod.FILES_DIR, script=script, source=toolpod.SOURCE_DIR),
            (
                *((SOURCES_BUCKET, f"{model}/") for model in MODELS),
                (TEXTS_BUCKET, "calibration.txt"),
                (TEXTS_BUCKET, "evaluation.txt"),
                (TEXTS_BUCKET, "prompts.jsonl"),
                (TEXTS_BUCKET, "tasks/"),
            ),
            {f"{script}.py": Path(__file__).with_name(f"{script}.py").read_text()},
            environment,
        )
        return toolpod.run(kubectl, pod, Store.from_environment(), wanted, TIMEOUT_SECONDS).log

    agreement = agrees(run("references", {}))
    return [*agreement, *report(verdicts(run("faults", {"BANDS": json.dumps(bands)}), bands))]


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
