"""``ModelStore``: where artifacts are kept, and which namespaces may use it."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from quantop.api.base import ApiModel, Name, Rule


class AddressingStyle(StrEnum):
    """How a bucket is put into a URL."""

    PATH = "Path"
    VIRTUAL = "Virtual"


class HubSources(StrEnum):
    """Where a model of a hub is read from."""

    DIRECT = "Direct"
    MIRRORED = "Mirrored"


class NamespacesFrom(StrEnum):
    """Which namespaces may use a store."""

    ALL = "All"
    SELECTOR = "Selector"


class S3(ApiModel):
    """An S3-compatible bucket."""

    rules: ClassVar = (
        Rule(
            "!has(self.endpoint) || self.endpoint.matches('^https?://[^/]+$')",
            "spec.s3.endpoint must be http(s)://HOST[:PORT] without a path",
        ),
        Rule(
            "!has(self.prefix) || (!self.prefix.startsWith('/') && !self.prefix.endsWith('/') "
            "&& !self.prefix.contains('..'))",
            "spec.s3.prefix must not begin or end with '/' nor contain '..'",
        ),
        Rule(
            "!has(self.caBundle) || (has(self.endpoint) && self.endpoint.startsWith('https://'))",
            "spec.s3.caBundle needs an https:// endpoint to check: set spec.s3.endpoint or remove "
            "the bundle",
        ),
        Rule(
            "!has(self.caBundle) || self.caBundle.contains('-----BEGIN CERTIFICATE-----')",
            "spec.s3.caBundle must hold PEM certificates (-----BEGIN CERTIFICATE-----)",
        ),
    )

    endpoint: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """http(s)://HOST[:PORT]. Default: Amazon's own for the region."""
    region: Annotated[str, Field(min_length=1, max_length=64)] = "us-east-1"
    """The region that requests are signed for."""
    bucket: Annotated[
        str, Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$")
    ]
    """The bucket; it must exist."""
    prefix: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Put before every key."""
    addressing_style: AddressingStyle = AddressingStyle.PATH
    """Path (http://host/bucket) or Virtual (http://bucket.host)."""
    ca_bundle: Annotated[str, Field(min_length=1, max_length=65_536)] | None = None
    """PEM certificates that the endpoint's certificate is checked against."""


class StoreCredentials(ApiModel):
    """Names of Secrets that the platform team puts into each allowed namespace. Their keys are
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""

    writer_secret_name: Name
    """For Jobs: may read, write and delete."""
    reader_secret_name: Name
    """For serving pods: may read."""


class AllowedNamespaces(ApiModel):
    """Which namespaces may use the store."""

    rules: ClassVar = (
        Rule(
            "(self.from == 'Selector') == has(self.matchLabels)",
            "spec.allowedNamespaces.matchLabels goes with from: Selector, and only with it",
        ),
    )

    from_: Annotated[NamespacesFrom, Field(alias="from")] = NamespacesFrom.ALL
    """All, or those that ``matchLabels`` selects."""
    match_labels: (
        Annotated[
            dict[str, Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=16)
        ]
        | None
    ) = None
    """Labels that a namespace must have."""


class ModelStoreSpec(ApiModel):
    """Where artifacts are kept."""

    s3: S3
    """An S3-compatible bucket."""
    credentials: StoreCredentials | None = None
    """Secrets with access keys. Default: the pods' ServiceAccount suffices (workload identity)."""
    service_account_name: Name = "default"
    """ServiceAccount, in the model's namespace, of the pods that use the store."""
    allowed_namespaces: AllowedNamespaces = Field(default_factory=AllowedNamespaces)
    """Which namespaces may use the store."""
    hub_sources: HubSources = HubSources.DIRECT
    """Direct reads them from the hub each time. Mirrored keeps the files that conversions read in
    the store, below sources/: further conversions of the same commit read them there, and once
    copied, a public model whose spec.source.revision is a commit needs no hub. Nothing removes them
    but the bucket's own lifecycle rules."""
