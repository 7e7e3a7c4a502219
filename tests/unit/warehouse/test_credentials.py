"""Passwords are random, kept, and never told by an error; the verifier is RFC 5803's."""

import base64
import hashlib
import hmac
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gristmill.errors import WarehouseError
from gristmill.warehouse import credentials
from gristmill.warehouse.credentials import ensure_passwords, read_passwords, scram_verifier


def test_each_user_gets_a_password_once(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    assert read_passwords(path) == {}
    first = ensure_passwords(path, ["admin", "reader"])
    assert len(set(first.values())) == 2
    assert all(len(password) >= 32 for password in first.values())
    second = ensure_passwords(path, ["reader", "wrïter"])
    assert {user: second[user] for user in first} == first
    assert read_passwords(path) == second == json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_users_added_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    users = [f"user{number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda user: ensure_passwords(path, [user])[user], users))
    assert read_passwords(path) == dict(zip(users, given, strict=True))


@pytest.mark.parametrize("text", ['{"admin": "s3cret"', '["s3cret"]', '{"admin": ["s3cret"]}'])
def test_a_broken_file_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(text)
    with pytest.raises(
        WarehouseError, match=r"credentials\.json is not what was written"
    ) as caught:
        ensure_passwords(path, ["other"])
    assert "s3cret" not in str(caught.value)
    assert path.read_text() == text


def test_the_verifier_answers_the_exchange_of_rfc_7677(monkeypatch: pytest.MonkeyPatch) -> None:
    """The RFC's exchange: user `user`, password `pencil`; proof and signature must agree."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    monkeypatch.setattr(credentials.secrets, "token_bytes", lambda count: salt[:count])
    mechanism, iterations, keys = scram_verifier("pencil").split("$", 2)
    assert mechanism == "SCRAM-SHA-256"
    assert iterations == "4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    signature = hmac.digest(server, message, "sha256")
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    mask = hmac.digest(stored, message, "sha256")
    client = bytes(one ^ other for one, other in zip(proof, mask, strict=True))
    assert hashlib.sha256(client).digest() == stored
