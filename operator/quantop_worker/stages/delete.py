"""delete: give up references, and remove what nothing refers to any more."""

from quantop.contract import DeleteTask, Message, Stage

from quantop_worker.errors import RefusedError
from quantop_worker.progress import Progress
from quantop_worker.store import Artifact, store_bucket


class DeleteResult(Message):
    """Keys that are gone, and keys that others still refer to."""

    stage: Stage = Stage.DELETE
    deleted: int = 0
    kept: int = 0


def run(task: DeleteTask, progress: Progress) -> DeleteResult:
    """Take the referrer's references back; remove artifacts without any."""
    bucket = store_bucket(task.store)
    artifacts = [Artifact(task.store, key, bucket) for key in task.keys]
    deleted = 0
    try:
        for artifact in artifacts:
            artifact.forget(task.referrer)
        for artifact in artifacts:
            progress.begin(f"deleting {artifact.uri}")
            deleted += artifact.delete_unless_referred(task.referrer)
    except RefusedError as refusal:
        if refusal.reason != "StoreNotFound":
            raise
        # A bucket that is gone holds nothing that could be deleted.
        progress.note(refusal.message)
    return DeleteResult(deleted=deleted, kept=len(artifacts) - deleted)
