"""An object store (S3, Google Cloud Storage, Azure) as a bucket. Writes nothing to it."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from gristmill.bucket.objects import CHUNK_SIZE, BucketObject, checked_path, folder_prefix
from gristmill.errors import BucketError, ObjectChanged, ObjectNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

# Nobody waits minutes to learn that an address is wrong. The limit on a whole request covers
# its body too, so it is wide; a stalled one is noticed by the limit on a single read.
TIMEOUTS: ClientConfig = {
    "connect_timeout": timedelta(seconds=3),
    "read_timeout": timedelta(seconds=20),
    "timeout": timedelta(days=1),
}
RETRIES: RetryConfig = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
AMAZON = "https://s3.amazonaws.com"

# What Amazon's, Google's and Azure's error codes mean to the person who has to act on them.
REMEDIES = {
    "NoSuchBucket": "There is no such bucket: correct `source` in the project file.",
    "InvalidAccessKeyId": "The access key is not known there: check AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "The secret key does not fit: check AWS_SECRET_ACCESS_KEY.",
    "ExpiredToken": "The session has expired: renew AWS_SESSION_TOKEN and its keys.",
    "InvalidToken": "The session token is not valid: check AWS_SESSION_TOKEN.",
    "AuthorizationHeaderMalformed": "The region does not fit: set AWS_REGION to the bucket's.",
    "PermanentRedirect": "The bucket is in another region: set AWS_REGION to that one.",
    "RequestTimeTooSkewed": "This machine's clock is wrong: set it.",
    "ContainerNotFound": "There is no such container: correct `source` in the project file.",
    "AuthenticationFailed": "The key does not fit: check AZURE_STORAGE_ACCOUNT_NAME and its key.",
}
KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A bucket behind HTTP. An etag is what the store says."""

    scheme: str
    """`s3`, `gs` or `az`."""
    name: str
    """The bucket's or container's own name."""
    prefix: str
    """The folder inside it that is the bucket here; "" for all of it."""
    options: Mapping[str, str] = field(repr=False)
    """Keys, region and endpoint, by the names of the usual environment variables."""

    @property
    def url(self) -> str:
        """The source, such as s3://name/prefix."""
        return "/".join(part for part in (f"{self.scheme}://{self.name}", self.prefix) if part)

    def list(self, prefix: str = "") -> list[BucketObject]:
        """See Bucket.list. The empty objects that some tools keep for folders are left out."""
        with self._translated():
            metas = [
                meta
                for batch in self._store.list(folder_prefix(prefix) or None, chunk_size=1000)
                for meta in batch
            ]
        folders = {folder for meta in metas for folder in _folders_above(meta["path"])}
        return sorted(
            (_described(meta) for meta in metas if meta["size"] or meta["path"] not in folders),
            key=lambda item: item.path,
        )

    def stat(self, path: str) -> BucketObject:
        """See Bucket.stat."""
        with self._translated(checked_path(path)):
            return _described(self._store.head(path))

    def stream(self, item: BucketObject, *, chunk_size: int = CHUNK_SIZE) -> Iterator[memoryview]:
        """See Bucket.stream. A connection that breaks is taken up again a few times."""
        received = 0
        # A weak etag matches nothing, by RFC 9110; then the comparison below stands alone.
        condition: GetOptions = {} if item.etag.startswith("W/") else {"if_match": item.etag}
        with self._translated(checked_path(item.path)):
            answer = self._store.get(item.path, options=condition)
            found = _described(answer.meta)
            if (found.etag, found.size) != (item.etag, item.size):  # a store without If-Match
                raise self._changed(item.path)
            for chunk in answer.stream(min_chunk_size=chunk_size):
                received += len(chunk)
                yield memoryview(chunk)
        if received != item.size:
            raise BucketError(
                f"Reading {self.url}/{item.path} stopped after {received:,} of {item.size:,} "
                "bytes. Try again."
            )

    @cached_property
    def _store(self) -> S3Store | GCSStore | AzureStore:
        client: ClientConfig = {**TIMEOUTS, "allow_http": True}
        settings: dict[str, Any] = {
            "prefix": self.prefix or None,
            "client_options": client,
            "retry_config": RETRIES,
        }
        try:
            if self.scheme == "s3":
                return S3Store(self.name, **_amazon(self.name, self.options), **settings)
            family = "GOOGLE_" if self.scheme == "gs" else "AZURE_"
            config = {
                name.lower(): value
                for name, value in self.options.items()
                if name.startswith(family)
            }
            kind = GCSStore if self.scheme == "gs" else AzureStore
            return kind(self.name, config=config, **settings)  # type: ignore[arg-type]  # checked by obstore
        except (BaseError, ValueError) as error:
            raise BucketError(
                f"Cannot open the bucket {self.url}: {_first_line(error)}. Check `source`, keys "
                "and endpoint."
            ) from error

    @contextmanager
    def _translated(self, path: str | None = None) -> Iterator[None]:
        try:
            yield
        except PreconditionError as error:
            raise self._changed(path) from error
        except (FileNotFoundError, PermissionDeniedError) as error:
            raise self._refused(path, error) from error
        except (BaseError, OSError) as error:
            raise self._explained(error, path) from error

    def _refused(self, path: str | None, error: Exception) -> BucketError:
        """Why there is no object: the answer to HEAD has no body, that to a listing has."""
        try:
            next(iter(self._store.list(chunk_size=1)), None)
        except (BaseError, OSError) as reason:
            without_body = isinstance(error, FileNotFoundError) and isinstance(
                reason, PermissionDeniedError | UnauthenticatedError
            )
            if not without_body:
                return self._explained(reason, path)
        if isinstance(error, FileNotFoundError) and path:
            return ObjectNotFound(f"There is no object {path!r} in the bucket {self.url}.")
        return self._explained(error, path)

    def _explained(self, error: Exception, path: str | None) -> BucketError:
        asked = f"Cannot read {self.url}/{path}" if path else f"Cannot list the bucket {self.url}"
        where = self.options.get("AWS_ENDPOINT_URL_S3") or self.options.get("AWS_ENDPOINT_URL")
        at = f" at {where}" if where and self.scheme == "s3" else ""
        return BucketError(f"{asked}{at}. {self._remedy(error)}")

    def _remedy(self, error: Exception) -> str:
        text = str(error)
        code = re.search(r"<Code>(\w+)</Code>", text)
        if code and code[1] in REMEDIES:
            return REMEDIES[code[1]]
        if isinstance(error, InvalidPathError):
            return (
                f"It holds an object with an unusable name ({_first_line(error)}): rename that "
                "object, or set `source` to a folder of the bucket without it."
            )
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "code: 403" in text:
            signed = self.scheme != "s3" or self.options.get("AWS_ACCESS_KEY_ID")
            who = "These keys have" if signed else "Who has no keys has"
            return (
                f"{who} no right to it: ask its owner for the right to list and read, or set "
                f"{KEYS[self.scheme]}."
            )
        if "redirect" in text.partition("Debug source")[0]:
            return REMEDIES["PermanentRedirect"]
        if "error sending request" in text or "timed out" in text:
            endpoint = {"s3": " (AWS_ENDPOINT_URL)", "az": " (AZURE_STORAGE_ENDPOINT)"}
            return (
                "The server does not answer: check the network and the endpoint"
                f"{endpoint.get(self.scheme, '')}. {_first_line(error)}"
            )
        return _first_line(error)

    def _changed(self, path: str | None) -> ObjectChanged:
        return ObjectChanged(
            f"{self.url}/{path} is no longer the version that was to be read: somebody has "
            "written it since. Load it again."
        )


def bucket_region(name: str, *, endpoint: str = AMAZON) -> str | None:
    """The region Amazon says a bucket is in, asked without keys; None where it does not say."""
    request = urllib.request.Request(f"{endpoint}/{name}", method="HEAD")  # noqa: S310  # https
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:  # noqa: S310  # ours
            headers = answer.headers
    except urllib.error.HTTPError as refusal:
        headers = refusal.headers
    except OSError:
        return None
    region = headers.get("x-amz-bucket-region")
    return str(region) if region else None


def _amazon(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """obstore's configuration from the usual variables; anonymous where there are no keys."""
    endpoint = options.get("AWS_ENDPOINT_URL_S3") or options.get("AWS_ENDPOINT_URL")
    region = options.get("AWS_REGION") or options.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = bucket_region(name)
    config: dict[str, Any] = {"region": region or "us-east-1"}
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    key = options.get("AWS_ACCESS_KEY_ID")
    if not key:
        return {**config, "skip_signature": True}
    secret = options.get("AWS_SECRET_ACCESS_KEY")
    if not secret:
        raise BucketError(
            f"AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not, so s3://{name} cannot be "
            "read with that key. Set both, or neither for a bucket that anyone may read."
        )
    config.update(access_key_id=key, secret_access_key=secret)
    if token := options.get("AWS_SESSION_TOKEN"):
        config["session_token"] = token
    return config


def _described(meta: ObjectMeta) -> BucketObject:
    etag = meta["e_tag"] or f'W/"{meta["size"]:x}-{meta["last_modified"].timestamp():.6f}"'
    if '"' not in etag:
        # Azure leaves the quotes out of a listing, and out of nothing else.
        etag = f'"{etag}"'
    return BucketObject(
        path=meta["path"], etag=etag, size=meta["size"], modified_at=meta["last_modified"]
    )


def _folders_above(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()
