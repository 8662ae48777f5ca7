"""Connections to object storage: one for each pipeline, to the stack's own storage or to an external endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from homelab.model.inventory import Secret
from homelab.model.options import SecretName
from homelab.model.secret_store import SecretStore, user_secrets

BUCKET = r"(?!xn--|.*\.\.|.*-s3alias$|[0-9.]+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"  # the names that S3 accepts
UrlStyle = Literal["path", "vhost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStorage:
    """The connection of one pipeline to S3, always over TLS.

    `folder` is the pipeline's part of a bucket that several use; empty: the bucket is its own. `ca_file` is the file in
    the containers with the CAs that clients trust. `secret` names the secret key: generated, or a user's SecretName.
    """

    host: str
    port: int
    region: str
    url_style: UrlStyle  # https://HOST/BUCKET, or https://BUCKET.HOST
    ca_file: str
    bucket: str
    folder: str = ""
    access_key: str
    secret: str

    @property
    def endpoint(self) -> str:
        """Host and port, as DuckDB takes them: `192.168.2.75:8333`."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The folder of the pipeline's objects, without a slash at its end: `s3://pipeline-weather`."""
        return "/".join(filter(None, (f"s3://{self.bucket}", self.folder)))

    def secret_key(self, store: SecretStore) -> Secret:
        """Return the secret key. Raises InputError if the user has to set it and did not."""
        if isinstance(self.secret, SecretName):
            return user_secrets(store, [self.secret])[self.secret]
        return store.secret(self.secret)

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables of the pipeline's commands; the secret key is S3_SECRET_ACCESS_KEY, in another file."""
        return {
            "S3_URL": self.url,
            "S3_ENDPOINT": self.endpoint,
            "S3_REGION": self.region,
            "S3_URL_STYLE": self.url_style,
            "S3_CA_FILE": self.ca_file,
            "S3_ACCESS_KEY_ID": self.access_key,
        }
