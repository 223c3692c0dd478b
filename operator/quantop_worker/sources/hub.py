"""Checkpoints on a hub: ``hf://OWNER/NAME``, read by huggingface_hub."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars, tqdm
from quantop.contract import SOURCE_PREFIX, SourceRef

from quantop_worker.digests import FileRecord, sha256_of
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.sources.base import FIELD, Source, SourceFile

ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 30.0
FILES_AT_ONCE = 4
IDENTITY_PREFIX = "git:"
COMMIT = re.compile(r"[0-9a-f]{40}")
ACCESS = (
    "put a token that may read it into the key HF_TOKEN of the Secret that "
    "spec.source.credentialsSecretName names, and accept the model's terms on the hub if it has any"
)


class HubSource(Source):
    """A model repository at one commit."""

    def __init__(self, source: SourceRef, repository: str, pinned: str | None) -> None:
        self.uri = source.uri
        self.public = False
        """Whether anybody may read it, once the files were listed."""
        self._repository = repository
        self.endpoint = source.hub_endpoint or ENDPOINT
        self._token: str | bool = os.environ.get(f"{SOURCE_PREFIX}HF_TOKEN") or False
        self._asked = source.revision
        self.commit = pinned.removeprefix(IDENTITY_PREFIX) if pinned else None

    @property
    def revision(self) -> str | None:
        """The commit, once it is known."""
        return self.commit

    def files(self) -> list[SourceFile]:
        """All files of the commit, which is resolved first if need be."""
        with self._translated():
            info = HfApi(self.endpoint, token=self._token).model_info(
                self._repository,
                revision=self.commit or self._asked,
                files_metadata=True,
                timeout=TIMEOUT_SECONDS,
            )
        if not info.sha:
            raise TryAgainError("ServerError", f"The hub names no commit of {self.uri}.")
        self.commit = info.sha
        self.public = not info.private and not info.gated
        return [
            SourceFile(
                path=item.rfilename,
                size=item.size or 0,
                version=item.blob_id or "",
                sha256=item.lfs.sha256 if item.lfs else "",
            )
            for item in info.siblings or ()
        ]

    def pin(self) -> bool:
        """Take the commit that was asked for without asking the hub; whether it was one."""
        if self.commit is None and COMMIT.fullmatch(self._asked or ""):
            self.commit = self._asked
        return self.commit is not None

    def read(self, file: SourceFile, start: int, stop: int) -> bytes:
        """A range of a file."""
        url = hf_hub_url(self._repository, file.path, revision=self.commit, endpoint=self.endpoint)
        headers = {
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        content = bytearray()
        with (
            self._translated(),
            get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response,
        ):
            hf_raise_for_status(response)
            # A server that ignores ranges sends the file from its beginning.
            skip = 0 if response.status_code == httpx2.codes.PARTIAL_CONTENT else start
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) >= skip + stop - start:
                    break
        return bytes(content[skip : skip + stop - start])

    def identity(self, files: Sequence[SourceFile]) -> str:
        """The commit."""
        if self.commit is None:
            raise ValueError("identity before files")
        return f"{IDENTITY_PREFIX}{self.commit}"

    def download(
        self,
        files: Sequence[SourceFile],
        folder: Path,
        on_file: Callable[[FileRecord], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Several files at once, by huggingface_hub: it continues files that are half there."""
        # Beside the folder: it leaves files of its own.
        landing = folder.parent / f"{folder.name}.hub"

        disable_progress_bars()

        class Bar(tqdm):
            def update(self, n: float | None = 1) -> bool | None:
                on_bytes(int(n or 0))
                return None

        def fetch(file: SourceFile) -> None:
            with self._translated():
                landed = Path(
                    HfApi(self.endpoint, token=self._token).hf_hub_download(
                        self._repository,
                        file.path,
                        revision=self.commit,
                        local_dir=landing,
                        tqdm_class=Bar,
                    )
                )
            sha256 = sha256_of(landed)
            if landed.stat().st_size != file.size or file.sha256 not in ("", sha256):
                landed.unlink()
                raise TryAgainError("Corrupted", f"{file.path} of {self.uri} arrived damaged.")
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            landed.replace(target)
            on_file(FileRecord(path=file.path, size=file.size, sha256=sha256))

        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            list(pool.map(fetch, files))
        shutil.rmtree(landing, ignore_errors=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except GatedRepoError as error:
            raise RefusedError(
                "AccessDenied", f"{FIELD} is {self.uri}, which is gated: {ACCESS}."
            ) from error
        except RevisionNotFoundError as error:
            raise RefusedError(
                "SourceNotFound",
                f"{FIELD} is {self.uri}, which has no revision "
                f"{self.commit or self._asked}: correct spec.source.revision.",
            ) from error
        except RepositoryNotFoundError as error:
            raise RefusedError(
                "SourceNotFound",
                f"{FIELD} is {self.uri}, which the hub does not have or does not show: correct "
                f"the name, or if it is private, {ACCESS}.",
            ) from error
        except RemoteEntryNotFoundError as error:
            raise RefusedError(
                "SourceChanged", f"{FIELD} is {self.uri}: a file that it listed is gone."
            ) from error
        except HFValidationError as error:
            raise RefusedError("InvalidSource", f"{FIELD} is {self.uri}: {error}") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise RefusedError(
                    "AccessDenied", f"{FIELD} is {self.uri}; the hub answered {status}: {ACCESS}."
                ) from error
            raise self._passing(f"the hub answered {status}") from error
        except (httpx2.HTTPError, LocalEntryNotFoundError) as error:
            raise self._passing(type(error).__name__) from error

    def _passing(self, what: str) -> TryAgainError:
        return TryAgainError(
            "Unreachable", f"Could not read {self.uri}: {what}; it is tried again."
        )
