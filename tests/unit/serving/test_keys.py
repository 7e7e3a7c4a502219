"""API keys: shown once, kept as hashes, revoked for good."""

import base64
import hashlib
import json
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gristmill.errors import ServingError
from gristmill.serving import keys
from gristmill.serving.keys import (
    KeyRing,
    add_key,
    ensure_key,
    is_loopback,
    list_keys,
    require_key,
    revoke_key,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "keys.json"


@pytest.fixture
def ring(path, monkeypatch):
    """Whose key a header shows; it looks at the file every time."""
    monkeypatch.setattr(keys, "LOOK_EVERY", 0.0)
    return KeyRing(path)


def bearer(key):
    return f"Bearer {key}".encode()


def test_a_key_is_256_random_bits_and_kept_as_its_hash_alone(path):
    made = {add_key(path, name) for name in ("crm", "shop")}
    bits = [base64.urlsafe_b64decode(key.removeprefix("gristmill_") + "=") for key in made]
    assert [len(one) for one in bits] == [32, 32]
    assert bits[0] != bits[1]
    kept = path.read_text()
    assert not any(key in kept or key.removeprefix("gristmill_") in kept for key in made)
    hashes = {one["sha256"] for one in json.loads(kept)["keys"]}
    assert hashes == {hashlib.sha256(key.encode()).hexdigest() for key in made}


def test_the_file_is_its_owner_s_alone(path):
    add_key(path, "crm")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_key_opens_until_it_is_revoked_and_never_again(path, ring):
    assert not ring.asks
    key = add_key(path, "crm")
    assert ring.name_of(bearer(key)) == "crm"
    revoke_key(path, "crm")
    assert ring.name_of(bearer(key)) is None
    again = add_key(path, "crm")
    assert ring.name_of(bearer(key)) is None
    assert ring.name_of(bearer(again)) == "crm"
    assert [one.revoked_at is None for one in list_keys(path)] == [False, True]


def test_a_key_from_elsewhere_opens_until_another_takes_its_place(path, ring):
    first, second = "a" * 32, "b" * 32
    crm = add_key(path, "crm")
    ensure_key(path, "environment", first)
    ensure_key(path, "environment", first)
    assert ring.name_of(bearer(first)) == "environment"
    ensure_key(path, "environment", second)
    assert ring.name_of(bearer(first)) is None
    assert ring.name_of(bearer(second)) == "environment"
    assert ring.name_of(bearer(crm)) == "crm"
    assert len(list_keys(path)) == 3


@pytest.mark.parametrize("guessable", ["", "secret", "a" * 31, "a b" * 20, "ä" * 32, "a" * 201])
def test_a_key_from_elsewhere_that_will_not_do_is_refused_and_not_quoted(path, guessable):
    with pytest.raises(ServingError, match="32 to 200 random") as refused:
        ensure_key(path, "environment", guessable)
    assert not guessable or guessable not in str(refused.value)
    assert not path.exists()


def test_once_there_was_a_key_one_is_asked_for(path, ring):
    add_key(path, "crm")
    revoke_key(path, "crm")
    ring.name_of(None)
    assert ring.asks


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer gristmill_",
        b"Bearer KEY KEY",
        b"Basic KEY",
        b"KEY",
        b"Bearer KEYx",
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 100_000,
    ],
)
def test_what_is_no_key_opens_nothing(path, ring, header):
    key = add_key(path, "crm").encode()
    assert ring.name_of(header and header.replace(b"KEY", key)) is None
    assert ring.name_of(b"bearer  " + key) == "crm"


def test_a_file_that_cannot_be_read_opens_nothing(path, ring):
    key = add_key(path, "crm")
    assert ring.name_of(bearer(key)) == "crm"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert ring.name_of(bearer(key)) is None
    assert ring.asks
    with pytest.raises(ServingError, match=r"keys\.json cannot be read"):
        add_key(path, "shop")
    path.write_bytes(whole)
    assert ring.name_of(bearer(key)) == "crm"


def test_a_change_is_noticed_without_being_told(path):
    ring = KeyRing(path)
    key = add_key(path, "crm")
    assert ring.name_of(bearer(key)) == "crm"
    revoke_key(path, "crm")
    deadline = time.monotonic() + 60
    while ring.name_of(bearer(key)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_keys_that_are_made_at_once_are_all_kept(path):
    names = [f"client-{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add_key(path, name), names))
    assert sorted(key.name for key in list_keys(path)) == sorted(names)


def test_what_is_refused_leaves_the_file_as_it_was(path):
    add_key(path, "crm")
    before = path.read_bytes()
    with pytest.raises(ServingError, match="already"):
        add_key(path, "crm")
    for name in ("", "a b", "../x", "x" * 65, "naïve", "-x", "a\n"):
        with pytest.raises(ServingError, match="cannot be called"):
            add_key(path, name)
    with pytest.raises(ServingError, match="Those that are: crm"):
        revoke_key(path, "shop")
    assert path.read_bytes() == before
    assert list_keys(path.with_name("none.json")) == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        ("::ffff:127.0.0.1", True),
        *((host, False) for host in ("0.0.0.0", "::", "", "192.168.1.5", "fe80::1%eth0")),
        *((host, False) for host in ("localhost.example.com", "127.0.0.1.example.com")),
    ],
)
def test_what_only_this_machine_reaches(host, expected):
    assert is_loopback(host) is expected


def test_others_are_served_with_a_key_only(path):
    require_key(path, "127.0.0.1")
    require_key(None, "::1")
    for none in (path, None):
        with pytest.raises(ServingError, match="gristmill keys add"):
            require_key(none, "0.0.0.0")
    add_key(path, "crm")
    require_key(path, "0.0.0.0")
    revoke_key(path, "crm")
    with pytest.raises(ServingError, match="no API key"):
        require_key(path, "0.0.0.0")
