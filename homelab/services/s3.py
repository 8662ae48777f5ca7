"""The service s3: the object storage of the pipelines, in SeaweedFS or at an external endpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from homelab.distributions import CA_BUNDLE
from homelab.host import Result
from homelab.model import Container, Endpoint, Health, Service, ServiceContext, Step
from homelab.model.object_storage import BUCKET, ObjectStorage
from homelab.model.options import KeyNames, Option, SecretName, Size
from homelab.services.lab_certificates import CA_FILE
from homelab.services.seaweedfs import (
    FOLDER,
    METRICS_PORT,
    PIPELINE,
    UNITS,
    Identity,
    Settings,
    https_answer,
    metrics_endpoint,
    secret_name,
    server_health,
    server_health_probes,
    server_metrics,
    server_steps,
)
from homelab.steps import Packages

_BUCKET_TEXT = "a bucket's name: 3 to 63 lower-case letters, digits, hyphens and dots"
_Bucket = Annotated[str, Option(pattern=BUCKET, expected=_BUCKET_TEXT)]
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
_OF_ENDPOINT = ("bucket", "access_key", "secret_key")  # which an endpoint needs
_OF_SEAWEEDFS = ("port", "clients", "buckets", "users", "reserve")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageUser:
    """A user of SeaweedFS besides the pipelines: the buckets that it may read, and those that it may read and write."""

    read: Annotated[tuple[_Bucket, ...], Option("Buckets that it may read.")] = ()
    write: Annotated[tuple[_Bucket, ...], Option("Buckets that it may read and write.")] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class S3(Service):
    """Object storage of the pipelines: SeaweedFS, or any S3 by its `endpoint`."""

    minimum_memory: ClassVar[int] = 512

    endpoint: Annotated[
        str | None,
        Option(
            "Address of an external S3, instead of SeaweedFS.",
            pattern=rf"https://{_HOST}(:[0-9]{{1,5}})?/?",
            expected="`https://HOST` or `https://HOST:PORT`; without TLS, it cannot be used",
            examples=("https://nas.home.arpa:9000",),
        ),
    ] = None
    bucket: Annotated[
        str | None,
        Option("Bucket at the endpoint; each pipeline has a folder in it.", pattern=BUCKET, expected=_BUCKET_TEXT),
    ] = None
    access_key: Annotated[
        str | None,
        Option("Access key at the endpoint.", pattern=r"[\x21-\x7e]{1,128}", expected="printable characters"),
    ] = None
    secret_key: Annotated[SecretName | None, Option("Secret key at the endpoint.")] = None
    region: Annotated[
        str, Option("Region at the endpoint.", pattern=r"[a-z0-9-]{1,40}", expected="a region's name")
    ] = "us-east-1"
    url_style: Annotated[
        Literal["path", "vhost"], Option("URLs of the endpoint: `https://HOST/BUCKET`, or `https://BUCKET.HOST`.")
    ] = "path"
    port: Annotated[int, Option("Port of SeaweedFS.", low=1024, high=65535)] = 8333
    clients: Annotated[
        Literal["stack", "lan"], Option("Clients of SeaweedFS: the containers with pipelines, or the whole subnet.")
    ] = "stack"
    buckets: Annotated[
        tuple[_Bucket, ...], Option("Buckets in SeaweedFS besides those of the pipelines.", examples=(["exports"],))
    ] = ()
    users: Annotated[
        Mapping[str, StorageUser],
        Option(
            "Users of SeaweedFS besides the pipelines, with their buckets.",
            keys=KeyNames(r"(?!pipeline-)[a-z][a-z0-9-]{0,30}", "must be a name, which does not begin with pipeline-"),
            examples=({"reports": {"read": ["exports"]}},),
        ),
    ] = field(default_factory=dict)
    reserve: Annotated[Size, Option("Free space of the disk below which SeaweedFS only reads.", low=Size("100MB"))] = (
        Size("1GB")
    )

    def option_errors(self) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return options of the other kind of storage, and buckets that are missing or used twice."""
        given = {name: getattr(self, name) for name in (*_OF_ENDPOINT, *_OF_SEAWEEDFS)}
        if self.endpoint:
            yield from (((name,), "is missing: `endpoint` needs it") for name in _OF_ENDPOINT if not given[name])
            for name in _OF_SEAWEEDFS:
                if given[name] != _default(name):
                    yield (name,), "is an option of SeaweedFS, which `endpoint` replaces"
            if not 0 < _address(self.endpoint)[1] <= 65535:
                yield ("endpoint",), "must have a port from 1 to 65535"
            return
        yield from (((name,), "needs `endpoint`") for name in _OF_ENDPOINT if given[name])
        if self.port == METRICS_PORT:
            yield ("port",), f"must not be {METRICS_PORT}: port {METRICS_PORT} has SeaweedFS' metrics"
        for position, bucket in enumerate(self.buckets):
            if bucket.startswith(PIPELINE):
                yield ("buckets", position), f"must not begin with {PIPELINE}, like the buckets of the pipelines"
            elif bucket in self.buckets[:position]:
                yield ("buckets", position), "is a bucket that is already in the list"
        for name, user in self.users.items():
            for kind, buckets in (("read", user.read), ("write", user.write)):
                for position, bucket in enumerate(buckets):
                    if bucket not in self.buckets and not bucket.startswith(PIPELINE):
                        yield ("users", name, kind, position), f"is not a bucket: add {bucket} to `buckets`"

    def combination_errors(
        self, services: Mapping[str, Sequence[Service]], neighbours: Collection[str]
    ) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return an error for neighbours of SeaweedFS: its internal ports ask local programs for no key."""
        others = sorted({*neighbours} - {"node_exporter"})
        if others and not self.endpoint:
            yield (), f"needs a container of its own, apart from {', '.join(others)}"

    def object_storage(self, container: Container, pipeline: str) -> ObjectStorage:
        """Return the connection of a pipeline: to a bucket of its own, or to a folder of the endpoint's bucket."""
        name = f"{PIPELINE}{pipeline}"
        if self.endpoint and self.bucket and self.access_key and self.secret_key:
            host, port = _address(self.endpoint)
            return ObjectStorage(
                host=host,
                port=port,
                region=self.region,
                url_style=self.url_style,
                ca_file=CA_BUNDLE,
                bucket=self.bucket,
                folder=name,
                access_key=self.access_key,
                secret=self.secret_key,
            )
        bucket = bucket_of(pipeline)
        return ObjectStorage(
            host=str(container.address),
            port=self.port,
            region=self.region,
            url_style="path",
            ca_file=CA_FILE,
            bucket=bucket,
            access_key=bucket,
            secret=secret_name(bucket),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """Return S3 and the metrics of SeaweedFS; none for an external endpoint."""
        if self.endpoint:
            return ()
        s3 = Endpoint(
            name="s3",
            port=self.port,
            description="object storage",
            audience="lan" if self.clients == "lan" else "dependents",
            tls=True,
            restricted=self.clients == "stack",
        )
        return (s3, metrics_endpoint())

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the command for the free space of its disk."""
        return {} if self.endpoint else {"s3": server_metrics(self.reserve)}

    def stop_seconds(self) -> int:
        """Return the time in which SeaweedFS stops, and the container after it."""
        return 0 if self.endpoint else 120

    def data_folders(self) -> Sequence[str]:
        """Return the folder with the objects."""
        return () if self.endpoint else (FOLDER,)

    def units(self) -> Sequence[str]:
        """Return the units of SeaweedFS."""
        return () if self.endpoint else UNITS

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return SeaweedFS with its users and buckets, or the program that checks an endpoint.

        Raises InputError for the bucket of a pipeline that is not in the inventory.
        """
        if self.endpoint:
            return (Packages(["python3", "ca-certificates"]),)
        buckets = [bucket_of(each.name) for each in context.inventory.pipelines]
        own = {each: Identity((), (each,)) for each in buckets}
        others = {name: Identity(user.read, user.write) for name, user in self.users.items()}
        settings = Settings(self.port, self.reserve, (*buckets, *self.buckets), {**own, **others})
        return server_steps(context, settings)

    def health_probes(self) -> Sequence[str]:
        """Return the commands that ask SeaweedFS, or the endpoint, over verified TLS."""
        if self.endpoint:
            host, port = _address(self.endpoint)
            return (https_answer(f"{host}:{port}", "/", CA_BUNDLE),)
        return server_health_probes(self.port)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if the storage answers; SeaweedFS also has to be able to write."""
        if not self.endpoint:
            return server_health(answers, self.reserve)
        if not answers[0].ok:
            cause = answers[0].stderr.decode(errors="replace").strip().splitlines()[-1:]
            return Health(False, f"{self.endpoint} does not answer: {' '.join(cause) or 'no reason'}")
        return Health(True, f"{self.endpoint} answers")


def bucket_of(pipeline: str) -> str:
    """Return the bucket of a pipeline in SeaweedFS, which is also its user; a bucket has no underscores."""
    return f"{PIPELINE}{pipeline}".replace("_", "-")


def _address(endpoint: str) -> tuple[str, int]:
    """Return host and port; the port is 0 if it is none."""
    parts = urlsplit(endpoint)
    try:
        return str(parts.hostname), 443 if parts.port is None else parts.port
    except ValueError:
        return str(parts.hostname), 0


def _default(name: str) -> object:
    found = next(each for each in fields(S3) if each.name == name)
    return found.default if found.default is not MISSING else {}
