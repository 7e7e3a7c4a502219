"""What the rehearsals of a deployment share."""

from .host import bare_host, debian_root, host

__all__ = ["bare_host", "debian_root", "host"]
