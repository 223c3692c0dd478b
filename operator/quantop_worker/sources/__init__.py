"""Places that a checkpoint can be read from."""

from quantop.contract import ConversionTask

from quantop_worker.errors import RefusedError
from quantop_worker.sources.base import FIELD, Source, SourceFile
from quantop_worker.sources.pvc import PvcSource
from quantop_worker.sources.s3 import S3Source

__all__ = ["Source", "SourceFile", "open_source"]


def open_source(task: ConversionTask) -> Source:
    """The source of a task, at the revision that resolve saw when the task names it.
    Raises RefusedError ``InvalidSource``."""
    scheme, _, rest = task.source.uri.partition("://")
    match scheme:
        case "hf":
            # Only here: the hub's client takes longer to load than most of what resolve does.
            from quantop_worker.sources.hub import HubSource

            hub = HubSource(task.source, rest, pinned=task.source_identity)
            if not task.source.mirrored:
                return hub
            from quantop_worker.sources.mirror import MirroredHubSource

            return MirroredHubSource(hub, task.store)
        case "s3":
            return S3Source(task.source.uri, rest, task.store)
        case "pvc":
            return PvcSource(task.source.uri, rest, task.referrer)
    raise RefusedError(
        "InvalidSource", f"{FIELD} is {task.source.uri}: it must be an hf://, s3:// or pvc:// uri."
    )
