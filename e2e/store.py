"""The object store of the demo and the scenarios: buckets, credentials, what is put into it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MODELS = Path(__file__).parent / "models"
SOURCES_BUCKET = "models"
TEXTS_BUCKET = "datasets"
ARTIFACTS_BUCKET = "artifacts"


@dataclass(frozen=True)
class Store:
    """An S3 endpoint and its access keys, from the variables that AWS's own tools read.

    ``endpoint`` is how this program reaches it and ``endpoint_in_cluster`` how pods do; None is
    Amazon's own.
    """

    endpoint: str | None
    endpoint_in_cluster: str | None
    region: str
    access_key: str
    secret_key: str

    @classmethod
    def from_environment(cls) -> "Store":
        """Raises KeyError with the variable's name when an access key is missing."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        return cls(
            endpoint=endpoint,
            endpoint_in_cluster=os.environ.get("QUANTOP_STORE_ENDPOINT", endpoint),
            region=os.environ.get("AWS_REGION", "us-east-1"),
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        )

    def client(self) -> "S3Client":
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def read(self, uri: str) -> bytes:
        """What is at ``s3://BUCKET/KEY``."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.client().get_object(Bucket=bucket, Key=key)["Body"].read()


def ensure_bucket(s3: "S3Client", bucket: str) -> None:
    """Make a bucket unless it is there."""
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        s3.create_bucket(Bucket=bucket)


def push_checkpoint(s3: "S3Client", folder: Path, bucket: str, prefix: str) -> int:
    """Upload a checkpoint's files below a prefix; their bytes together.

    A file that is there in the same size stays as it is: its ETag is part of the source's identity,
    and an artifact made of it earlier stays good.
    """
    total = 0
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        total += push_file(s3, path, bucket, f"{prefix}/{path.relative_to(folder)}")
    return total


def push_file(s3: "S3Client", path: Path, bucket: str, name: str) -> int:
    """Upload a file unless one of its size is there; its size in bytes."""
    size = path.stat().st_size
    try:
        present = s3.head_object(Bucket=bucket, Key=name)["ContentLength"]
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        present = -1
    if present != size:
        s3.upload_file(str(path), bucket, name)
    return size


def push_test_models(s3: "S3Client") -> int:
    """Upload the committed test models and texts, making the buckets; bytes altogether."""
    for bucket in (SOURCES_BUCKET, TEXTS_BUCKET, ARTIFACTS_BUCKET):
        ensure_bucket(s3, bucket)
    checkpoints = sorted(path.parent for path in MODELS.glob("*/config.json"))
    total = sum(push_checkpoint(s3, folder, SOURCES_BUCKET, folder.name) for folder in checkpoints)
    for text in ("calibration.txt", "classification.jsonl", "evaluation.txt", "prompts.jsonl"):
        total += push_file(s3, MODELS / text, TEXTS_BUCKET, text)
    total += push_checkpoint(s3, MODELS / "tasks", TEXTS_BUCKET, "tasks")
    return total


def text_uri(name: str) -> str:
    """The uri of a committed text, such as ``evaluation.txt``."""
    return f"s3://{TEXTS_BUCKET}/{name}"
