"""A bucket, as much of S3 as the stages use, with failures said in our words."""

import base64
import hashlib
import os
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from quantop.contract import SOURCE_PREFIX, STORE_PREFIX, StoreRef
from urllib3.exceptions import HTTPError

from quantop_worker.errors import RefusedError, TryAgainError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

CONNECTIONS = 32
ATTEMPTS = 6
CHUNK_BYTES = 256 << 10
"""Of a stream. What was just received is copied to the page cache: it must still be in the
processor's cache then, or that copy takes three times as long."""
DENIED = {
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    # versitygw's word for an unknown access key.
    "XAdminUserNotFound",
}
ABSENT = {"404", "NoSuchKey", "NotFound"}
WRONG_REGION = {
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}
SERVER_ERROR = "ServerError"
UNSUPPORTED = {"501", "NotImplemented"}


class PreconditionFailedError(Exception):
    """The object is not, or no longer, what the request asked for (412)."""


class UploadGoneError(Exception):
    """The multipart upload was completed or aborted by somebody else."""


@dataclass(frozen=True)
class Place:
    """How a bucket is called when something is wrong with it."""

    title: str
    """For example ``the store``."""
    field: str
    """Where the user names the bucket."""
    credentials: str
    """Where the user names the credentials."""
    missing: str
    """The reason when it is not there."""


@dataclass(frozen=True)
class StoredObject:
    """An object as listings and heads show it; ``version`` is empty without versioning."""

    key: str
    size: int
    etag: str
    modified: datetime
    version: str = ""
    sha256: str = ""
    """What its uploader noted; empty in listings."""


@dataclass(frozen=True)
class Part:
    """A part of a multipart upload that the server has."""

    number: int
    size: int
    etag: str
    sha256: str
    """Base64, as S3 says it; empty where a server keeps none."""


class Bucket:
    """One bucket. Methods raise RefusedError or TryAgainError; usable from many threads."""

    def __init__(self, client: "S3Client", name: str, place: Place) -> None:
        self._client = client
        self.name = name
        self.place = place

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose key begins with ``prefix``, in the order of their keys."""
        with self._translated(f"list {prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix
            ):
                for item in page.get("Contents", ()):
                    yield StoredObject(
                        item["Key"], item["Size"], item.get("ETag", ""), item["LastModified"]
                    )

    def head(self, key: str) -> StoredObject | None:
        """An object's facts; None when there is none."""
        with self._translated(f"look at {key}"):
            try:
                found = self._client.head_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if _code(error) in ABSENT:
                    return None
                raise
            version = found.get("VersionId", "")
            return StoredObject(
                key=key,
                size=found["ContentLength"],
                etag=found["ETag"],
                modified=found["LastModified"],
                version="" if version == "null" else version,
                sha256=found["Metadata"].get("sha256", ""),
            )

    def get(self, key: str, limit: int) -> bytes | None:
        """A small object's content, at most ``limit`` bytes; None when there is none.
        Raises RefusedError ``ObjectTooLarge``."""
        with self._translated(f"read {key}"):
            try:
                found = self._client.get_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if _code(error) in ABSENT:
                    return None
                raise
            with closing(found["Body"]) as body:
                content = body.read(limit + 1)
        if len(content) > limit:
            raise RefusedError(
                "ObjectTooLarge", f"{self.uri(key)} has more than the {limit} bytes expected of it."
            )
        return content

    def stream(
        self, key: str, start: int, stop: int, etag: str = ""
    ) -> Generator[bytes, None, None]:
        """The bytes ``start`` to ``stop`` (exclusive) of an object, in chunks.
        Raises PreconditionFailedError when its ETag is not ``etag``."""
        condition = {"IfMatch": etag} if etag else {}
        with self._translated(f"read {key}"):
            found = self._client.get_object(
                Bucket=self.name,
                Key=key,
                Range=f"bytes={start}-{stop - 1}",
                **condition,  # type: ignore[arg-type]  # the stubs want a literal dictionary
            )
            with closing(found["Body"]) as body:
                yield from body.iter_chunks(CHUNK_BYTES)

    def signed_url(self, key: str, seconds: int) -> str:
        """An address at which whoever knows it may read an object for so long."""
        with self._translated(f"sign for {key}"):
            return self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self.name, "Key": key}, ExpiresIn=seconds
            )

    def put(
        self,
        key: str,
        content: bytes,
        *,
        create_only: bool = False,
        content_type: str = "binary/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write an object whole. Raises PreconditionFailedError when it is there and
        ``create_only``."""
        condition = {"IfNoneMatch": "*"} if create_only else {}
        with self._translated(f"write {key}"):
            self._client.put_object(
                Bucket=self.name,
                Key=key,
                Body=content,
                ChecksumSHA256=checksum(content),
                ContentType=content_type,
                Metadata=dict(metadata or {}),
                **condition,  # type: ignore[arg-type]  # the stubs want a literal dictionary
            )

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._translated(f"delete {key}"):
            self._client.delete_object(Bucket=self.name, Key=key)

    def begin_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        """Start a multipart upload; its id."""
        with self._translated(f"write {key}"):
            return self._client.create_multipart_upload(
                Bucket=self.name, Key=key, ChecksumAlgorithm="SHA256", Metadata=dict(metadata)
            )["UploadId"]

    def unfinished_uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """(key, upload id) of multipart uploads under way or left behind."""
        with self._translated(f"list uploads of {prefix}"):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.name, Prefix=prefix
            ):
                for item in page.get("Uploads", ()):
                    yield item["Key"], item["UploadId"]

    def parts(self, key: str, upload: str) -> list[Part]:
        """What a multipart upload has so far. Raises UploadGoneError."""
        with self._translated(f"list parts of {key}"):
            return [
                Part(item["PartNumber"], item["Size"], item["ETag"], item.get("ChecksumSHA256", ""))
                for page in self._client.get_paginator("list_parts").paginate(
                    Bucket=self.name, Key=key, UploadId=upload
                )
                for item in page.get("Parts", ())
            ]

    def put_part(self, key: str, upload: str, number: int, content: bytes) -> Part:
        """Write one part. Raises UploadGoneError."""
        sha256 = checksum(content)
        with self._translated(f"write {key}"):
            answer = self._client.upload_part(
                Bucket=self.name,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=content,
                ChecksumSHA256=sha256,
            )
        return Part(number, len(content), answer["ETag"], sha256)

    def finish_upload(self, key: str, upload: str, parts: list[Part]) -> None:
        """Make the object out of its parts. Raises UploadGoneError."""
        listed: list[CompletedPartTypeDef] = [
            {"PartNumber": part.number, "ETag": part.etag, "ChecksumSHA256": part.sha256}
            for part in sorted(parts, key=lambda part: part.number)
        ]
        with self._translated(f"write {key}"):
            self._client.complete_multipart_upload(
                Bucket=self.name, Key=key, UploadId=upload, MultipartUpload={"Parts": listed}
            )

    def abort_upload(self, key: str, upload: str) -> None:
        """Throw a multipart upload away; also when it is gone already."""
        with self._translated(f"abort upload of {key}"):
            try:
                self._client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload)
            except ClientError as error:
                if _code(error) != "NoSuchUpload":
                    raise

    def uri(self, key: str) -> str:
        """``s3://BUCKET/KEY``."""
        return f"s3://{self.name}/{key}"

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._from_server(error, action) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise RefusedError(
                "AccessDenied",
                f"There are no credentials for {self.place.title}: {self.place.credentials}.",
            ) from error
        except SSLError as error:
            raise RefusedError(
                "CertificateNotTrusted",
                f"The certificate of {self.place.title} is not trusted: put the authority that "
                f"signed it into spec.s3.caBundle of the ModelStore.",
            ) from error
        except (ParamValidationError, ValueError) as error:
            raise RefusedError(
                self.place.missing,
                f"{self.place.field} is no usable address of {self.place.title}: {error}",
            ) from error
        except (BotoCoreError, HTTPError) as error:
            raise TryAgainError(
                "Unreachable",
                f"Could not {action} in bucket {self.name} of {self.place.title}: "
                f"{type(error).__name__}; it is tried again.",
            ) from error

    def _from_server(self, error: ClientError, action: str) -> Exception:
        code = _code(error)
        title = self.place.title
        if code in ("PreconditionFailed", "412"):
            return PreconditionFailedError(action)
        if code == "NoSuchUpload":
            return UploadGoneError(action)
        if code == "NoSuchBucket":
            return RefusedError(
                self.place.missing,
                f"{self.place.field} names bucket {self.name}, which {title} does not have: "
                f"create the bucket or correct the name.",
            )
        if code in ABSENT:
            return RefusedError(
                self.place.missing, f"{self.place.field}: {title} has no such object ({action})."
            )
        if code in DENIED:
            return RefusedError(
                "AccessDenied",
                f"Bucket {self.name} of {title} refused to {action} ({code}): "
                f"{self.place.credentials}.",
            )
        if code in WRONG_REGION:
            return RefusedError(
                "WrongRegion",
                f"Bucket {self.name} of {title} is in another region than requests were signed "
                f"for ({code}): correct spec.s3.region of the ModelStore, or AWS_REGION in the "
                f"Secret of the source.",
            )
        if code in UNSUPPORTED:
            return RefusedError(
                "StoreUnsupported",
                f"{title} cannot {action}: it must support multipart uploads, SHA-256 checksums "
                f"and If-None-Match on writes.",
            )
        return TryAgainError(
            SERVER_ERROR,
            f"Could not {action} in bucket {self.name} of {title} ({code}); it is tried again.",
        )


def checksum(content: bytes) -> str:
    """The sha256 of ``content`` as S3 says it: base64."""
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


@dataclass(frozen=True)
class Connection:
    """How a server is reached; the credentials come from the environment."""

    prefix: str
    """Of the environment variables of the credentials."""
    endpoint: str | None
    region: str
    path_style: bool = True
    ca_bundle: str | None = None

    @property
    def client(self) -> "S3Client":
        """A client, safe to use from many threads."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return _client(self, *(os.environ.get(self.prefix + name) or None for name in names))


@lru_cache
def _client(
    connection: Connection, access_key: str | None, secret_key: str | None, token: str | None
) -> "S3Client":
    """Made once for each server: reading the SDK's model of S3 takes longer than most requests.
    boto3's own sessions would load its transfer manager, which is not used."""
    client = botocore.session.get_session().create_client(
        "s3",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=token,
        endpoint_url=connection.endpoint,
        region_name=connection.region,
        verify=_file_of(connection.ca_bundle) if connection.ca_bundle else None,
        config=Config(
            signature_version="s3v4",
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            # Checksums are ours, SHA-256 and part of what is signed: hashing bodies once more
            # for the signature adds nothing, and other algorithms not every server knows.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "addressing_style": "path" if connection.path_style else "virtual",
                "payload_signing_enabled": False,
            },
        ),
    )
    return cast("S3Client", client)


def store_connection(store: StoreRef) -> Connection:
    """The connection of a ModelStore."""
    return Connection(
        prefix=STORE_PREFIX,
        endpoint=store.endpoint,
        region=store.region,
        path_style=store.path_style,
        ca_bundle=store.ca_bundle,
    )


def source_connection(store: StoreRef) -> Connection:
    """The connection that s3:// sources are read by: that of the source's Secret, or the store's
    where there is no such Secret."""
    variables = os.environ
    own = {f"{SOURCE_PREFIX}AWS_ACCESS_KEY_ID", f"{SOURCE_PREFIX}AWS_ENDPOINT_URL"}
    if not own & variables.keys():
        return store_connection(store)
    endpoint = variables.get(f"{SOURCE_PREFIX}AWS_ENDPOINT_URL") or None
    return Connection(
        prefix=SOURCE_PREFIX,
        endpoint=endpoint,
        region=variables.get(f"{SOURCE_PREFIX}AWS_REGION") or store.region,
        path_style=endpoint is not None,
    )


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _file_of(bundle: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".pem", delete=False) as file:
        file.write(bundle)
    return file.name
