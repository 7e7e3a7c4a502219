"""Opens the bucket that a project names: a folder of this machine, or an object store by URL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from gristmill.bucket.folder import Folder
from gristmill.bucket.object_store import ObjectStore
from gristmill.bucket.objects import CHUNK_SIZE, Bucket, BucketObject, folder_prefix
from gristmill.errors import BucketError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["CHUNK_SIZE", "Bucket", "BucketObject", "open_bucket"]

SCHEMES = ("s3", "gs", "az")


def open_bucket(source: str, *, root: Path, options: Mapping[str, str] | None = None) -> Bucket:
    """The bucket at a source; it is not reached before it is used.

    `source` is a folder (relative ones start at `root`, the project file's folder), `file://…`,
    or `s3://bucket/prefix`, `gs://…`, `az://…`. `options` are AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL and
    AWS_ENDPOINT_URL_S3, where they are set; without keys S3 is read anonymously, without a region
    Amazon is asked for it. Raises BucketError where the source cannot be understood.
    """
    address = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", source, flags=re.DOTALL)
    if address is None:
        return _folder(source, root)
    scheme, rest = address[1].lower(), address[2]
    if scheme == "file":
        return _folder(_local_path(source, rest), root)
    if scheme not in SCHEMES:
        raise BucketError(
            f"The source {_shown(source)} starts with {scheme}://, which is not known: use a "
            "folder, file://, s3://, gs:// or az://."
        )
    name, _, prefix = rest.partition("/")
    if not name or "@" in name:
        raise BucketError(
            f"The source {_shown(source)} should be {scheme}://BUCKET or "
            f"{scheme}://BUCKET/FOLDER, and without keys: those belong in the environment."
        )
    return ObjectStore(
        scheme=scheme, name=name, prefix=folder_prefix(prefix), options=dict(options or {})
    )


def _folder(path: str, root: Path) -> Folder:
    if not path.strip() or "\0" in path:
        raise BucketError("The source is empty: name a folder, or an address such as s3://bucket.")
    return Folder(root=(root / path).resolve())


def _local_path(source: str, rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host not in {"", "localhost"} or not slash:
        raise BucketError(
            f"The source {_shown(source)} should be file:///FOLDER with three slashes: a file:// "
            "address names a folder of this machine by its absolute path."
        )
    return unquote("/" + path)


def _shown(source: str) -> str:
    """A source as it may be printed: without what stands before an @, which may be a secret."""
    return re.sub(r"//[^/]*@", "//…@", source)
