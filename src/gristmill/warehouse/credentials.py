"""The passwords of the database's users: random, in one file that only its owner reads."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from typing import TYPE_CHECKING

from gristmill.errors import WarehouseError
from gristmill.warehouse.files import locked, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ITERATIONS = 4096


def read_passwords(path: Path) -> dict[str, str]:
    """User → password; empty where there is no file. Raises WarehouseError where it is unreadable.

    The message never shows what the file holds.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise WarehouseError(
            f"The passwords in {path} cannot be read ({error.strerror}). "
            "Only the user who made the file reads it: run the command as that user."
        ) from error
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        # Not chained: a parse error quotes the text, which holds passwords.
        raise WarehouseError(
            f"{path} is not what was written: user → password, as JSON. Restore it from a copy."
        )
    return found


def ensure_passwords(path: Path, users: Iterable[str]) -> dict[str, str]:
    """Give each user who has none a random password and keep it; all passwords, by user."""
    with locked(path.with_suffix(".lock")):
        passwords = read_passwords(path)
        missing = [user for user in users if user not in passwords]
        if missing:
            passwords |= {user: secrets.token_urlsafe(24) for user in missing}
            write_private(path, json.dumps(passwords, indent=2) + "\n")
        return passwords


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores of a password (RFC 5803), so that it never sees the password itself.

    A statement that fails is logged by the server as it was sent; this may stand in one. The
    password is taken as it is: for the random ASCII ones made here SASLprep changes nothing.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"
