"""The report on an artifact's quality: the page, and the list that its plot is drawn from."""

import time

from quantop.contract import ConversionTask, ReportTask

from quantop_worker.page import page
from quantop_worker.plot import Limit
from quantop_worker.provenance import timestamp
from quantop_worker.store import Artifact, Published


def write_report(
    artifact: Artifact, published: Published, task: ConversionTask | ReportTask
) -> None:
    """List the measurement, and write the page about it anew; nothing where none was asked for.

    The artifact must be referred to, or a deletion could leave the one without the other. All of
    this is made of what is in the store: it can be lost, and is written again by the next resolve.
    """
    quality = published.quality
    if quality is None:
        return
    artifact.put_measurement(published.manifest, quality)
    peers = artifact.peers(published.manifest, quality)
    trials = artifact.trials([peer.key for peer in peers])
    written = timestamp(time.time())
    benchmark = artifact.benchmark(published.manifest)
    text = page(artifact.uri, published, peers, written, limit_of(task), trials, benchmark)
    artifact.put_page(quality, text)


def limit_of(task: ConversionTask | ReportTask) -> Limit | None:
    """The limit that the object that asks has on what the plot shows, if any."""
    if task.max_mean_kl_divergence is None:
        return None
    owner = f"{task.referrer.namespace}/{task.referrer.name}"
    return Limit(owner, float(task.max_mean_kl_divergence))
