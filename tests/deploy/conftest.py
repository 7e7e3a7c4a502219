"""What the rehearsals of a deployment share."""

from .engine import base_image, database_image, engine, images
from .host import bare_host, debian_root, host

__all__ = [
    "bare_host",
    "base_image",
    "database_image",
    "debian_root",
    "engine",
    "host",
    "images",
]
