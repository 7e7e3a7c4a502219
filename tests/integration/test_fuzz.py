"""Whatever is sent: an answer that the documentation knows, never a fault."""

import json
from datetime import datetime
from uuid import uuid4

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS

from gristmill.serving.bodies import LARGEST_BATCH_BODY
from gristmill.serving.entry import build
from gristmill.serving.server import Deployment

FEATURES = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
JSON = {"content-type": "application/json"}
POSTS = ("/predict", "/predict/batch", "/outcomes")


@pytest.fixture(scope="module")
def client(example_model, served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    example_model.write(folder / "3")
    with served(build(Deployment(bundle=folder / "3", spool=folder / "spool"))) as client:
        yield client


def is_sound(response):
    """An answer, or a problem document that says what was wrong; never a fault."""
    if response.status_code == 200:
        return True
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["status"] == response.status_code
    assert found["type"].startswith("/docs#")
    assert found["detail"]
    assert response.status_code < 500 or found["type"] == "/docs#no-database", response.text
    return "Traceback" not in response.text


# Hypothesis: bodies that are nearly right

numbers = st.one_of(
    st.integers(-(10**30), 10**30),
    st.sampled_from([2**53, 2**53 + 1, 2**63, -(2**63), 10**400]),
    st.floats(),
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def nearly(right):
    return st.just(right) | values


asked = st.fixed_dictionaries(
    {
        "idx": nearly(1),
        "features": st.fixed_dictionaries({k: nearly(v) for k, v in FEATURES.items()}),
    },
    optional={"extra": values},
)
outcome = st.fixed_dictionaries(
    {"idx": nearly(1), "outcome": nearly(1), "observed_at": nearly("2026-01-01T00:00:00Z")},
    optional={"extra": values},
)
bodies = st.one_of(
    values,
    asked,
    st.fixed_dictionaries({"rows": st.lists(asked, max_size=4) | values}),
    outcome,
    st.fixed_dictionaries({"outcomes": st.lists(outcome, max_size=4) | values}),
)


def deepened(text, depth):
    return "[" * depth + text + "]" * depth


texts = st.one_of(
    bodies.map(json.dumps),  # with NaN and Infinity as Python writes them
    bodies.map(lambda body: json.dumps(body, ensure_ascii=False)),
    bodies.map(lambda body: json.dumps(body).replace('"idx"', '"idx": 7, "idx"')),
    bodies.map(lambda body: json.dumps(body)[:-1]),
    st.builds(deepened, bodies.map(json.dumps), st.sampled_from([1, 100, 100_000])),
    st.sampled_from([r'{"idx": "\ud800"}', "-", "1e999999", "[1e999999]", "nul", '"', "\ufeff{}"]),
)
octets = st.one_of(
    texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
    texts.map(lambda text: text.encode("utf-16", "surrogatepass")),
    st.binary(max_size=100),
)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(POSTS), body=octets)
def test_no_body_makes_it_fail(client, path, body):
    assert is_sound(client.post(path, content=body, headers=JSON))


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")])
def test_no_depth_makes_it_fail(client, path, begin, end):
    """Up to where the parser refuses it, all that looks at a value must take it."""
    for depth in range(940, 1001):
        value = begin * depth + ("1" if begin != "[" else "") + end * depth
        body = f'{{"idx": 1, "features": {json.dumps(FEATURES)[:-1]}, "attr_a": {value}}}}}'
        body = body if path == "/predict" else f'{{"rows": [{body}]}}'
        response = client.post(path, content=body, headers=JSON)
        assert is_sound(response), depth
        assert response.status_code in {400, 422}


@settings(max_examples=200)
@given(key=st.text(max_size=40) | st.integers().map(str))
def test_no_address_makes_it_fail(client, key):
    assert is_sound(
        client.get(
            "/predict/" + "".join(f"%{octet:02X}" for octet in key.encode("utf-8", "ignore"))
        )
    )


@settings(max_examples=100)
@given(
    name=st.sampled_from(
        ["authorization", "idempotency-key", "x-request-id", "content-type", "accept",
         "content-encoding", "cookie", "origin", "range", "if-none-match", "x-forwarded-for"]
    ),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=300),
)  # fmt: skip
def test_no_header_makes_it_fail(client, name, value):
    headers = [*JSON.items(), (name, value.strip().encode("latin-1"))]
    body = json.dumps({"idx": 1, "features": FEATURES}).encode()
    assert is_sound(client.post("/predict", content=body, headers=headers))


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b" " * 10_000_000,
        b"[" * 10_000_000,
        b'{"rows": [' + b"1," * 5_000_000 + b"1]}",
        b'{"idx": "' + b"x" * 10_000_000 + b'"}',
        b'{"rows": [' + b"[]," * 2_000_000 + b"{}]}",
        b'{"idx": ' + b"9" * 900_000 + b"}",
    ],
    ids=["blank", "deep", "long", "text", "lists", "number"],
)
def test_ten_megabytes(client, path, body):
    response = client.post(path, content=body, headers=JSON)
    assert is_sound(response)
    assert response.status_code in {400, 413, 422, 501}
    assert len(body) < LARGEST_BATCH_BODY or response.status_code in {413, 501}


# Schemathesis: the documentation says all that is answered


def test_the_service_is_as_its_openapi_document_says(
    warehouse, feature_store, served, bundle_folder, tmp_path
):
    """Each operation by right and by wrong requests, fixed by a seed."""
    deployment = Deployment(
        bundle=bundle_folder, spool=tmp_path / "spool", database_url=warehouse.url
    )
    # What JSON Schema cannot say: that a time is past.
    past = st.datetimes(datetime(1900, 1, 1), datetime(2026, 1, 1))
    schemathesis.openapi.format("date-time", past.map(lambda one: f"{one.isoformat()}Z"))
    schemathesis.openapi.format("date", past.map(lambda one: one.date().isoformat()))
    with served(build(deployment)) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        tried = set()
        for found in schema.get_all_operations():
            operation = found.ok()
            tried.add(operation.label)
            _try(operation, schemathesis.GenerationMode.POSITIVE)
            # What takes nothing cannot be given anything wrong.
            if operation.body or list(operation.iter_parameters()):
                _try(operation, schemathesis.GenerationMode.NEGATIVE)
    assert tried == {
        f"{method.upper()} {path}"
        for path, methods in schema.raw_schema["paths"].items()
        for method in methods
    }


def _try(operation, mode):
    @settings(
        max_examples=25,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def every_case(case):
        if mode.is_positive:
            case.body = _whole(case.body)
            if "Idempotency-Key" in (case.headers or {}):
                # A key belongs to one request: here each has one of its own.
                case.headers["Idempotency-Key"] = f"{uuid4()}{case.headers['Idempotency-Key']}"[
                    :255
                ]
        case.call_and_validate(checks=list(CHECKS.get_all()))

    every_case()


def _whole(value):
    """What JSON Schema takes for an integer and this service does not: 3.0 is written as 3."""
    match value:
        case dict():
            return {name: _whole(inner) for name, inner in value.items()}
        case list():
            return [_whole(inner) for inner in value]
        case float() if value.is_integer():
            return int(value)
    return value
