"""The report on an artifact's quality: the page, and the list that its plot is drawn from."""

import time

from quantop_worker.page import page
from quantop_worker.provenance import timestamp
from quantop_worker.store import Artifact, Published


def write_report(artifact: Artifact, published: Published) -> None:
    """List the measurement, and write the page about it anew; nothing where none was asked for.

    The artifact must be referred to, or a deletion could leave the one without the other. All of
    this is made of what is in the store: it can be lost, and is written again by the next resolve.
    """
    quality = published.quality
    if quality is None:
        return
    artifact.put_measurement(published.manifest, quality)
    peers = artifact.peers(published.manifest, quality)
    artifact.put_page(quality, page(artifact.uri, published, peers, timestamp(time.time())))
