"""The OpenAPI document holds together, whatever the features are called."""

import dataclasses
import json
from importlib.resources import files

import msgspec
import pytest
from jsonschema import Draft202012Validator

from gristmill.errors import ServingError
from gristmill.project.features import Feature
from gristmill.registry.bundle import Entity, read_bundle
from gristmill.serving.api import create_app
from gristmill.serving.openapi import openapi
from gristmill.serving.problems import KINDS, Refused
from gristmill.serving.schema import model_card


@pytest.fixture
def bundle(bundle_folder):
    return read_bundle(bundle_folder)


def _references(value):
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _references(one)


def test_every_schema_is_valid_and_every_reference_resolves(bundle):
    document = openapi(bundle)
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    assert {f"#/components/schemas/{name}" for name in schemas} >= set(_references(document))
    assert json.loads(msgspec.json.encode(document)) == document


def test_the_paths_are_those_of_the_application(bundle, tmp_path):
    app = create_app(bundle=bundle, spool=tmp_path / "spool")
    app.state.service.log.close()
    served = {
        route.path.replace("{entity:path}", "{idx}")
        for route in app.routes
        if route.path not in {"/", "/docs", "/openapi.json"}
    }
    assert set(openapi(bundle)["paths"]) == served


def test_features_by_any_name_and_of_any_type(bundle):
    features = (
        Feature(name="class", type="boolean"),
        Feature(name="größe in cm", type="number"),
        Feature(name="features", type="date"),
        Feature(name='"quoted`', type="timestamp"),
    )
    manifest = dataclasses.replace(
        bundle.manifest, features=features, entity=Entity(name="e mail", type="text")
    )
    document = openapi(dataclasses.replace(bundle, manifest=manifest))
    schemas = document["components"]["schemas"]
    assert list(schemas["Features"]["properties"]) == [feature.name for feature in features]
    assert schemas["Features"]["properties"]["features"]["anyOf"][0]["format"] == "date"
    assert set(schemas["PredictRequest"]["properties"]) == {"e mail", "features"}
    assert "/predict/{e mail}" in document["paths"]


def test_a_key_that_is_called_features_has_no_place_in_a_request(bundle):
    manifest = dataclasses.replace(bundle.manifest, entity=Entity(name="features", type="text"))
    with pytest.raises(ServingError, match="Rename"):
        openapi(dataclasses.replace(bundle, manifest=manifest))


def test_the_example_is_a_valid_request(bundle):
    document = openapi(bundle)
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    schema = {**content["schema"], "components": document["components"]}
    assert Draft202012Validator(schema).is_valid(content["example"])


def test_the_model_card_tells_what_the_manifest_does(bundle):
    card = json.loads(msgspec.json.encode(model_card(bundle)))
    assert card["features"][1] == {"name": "attr_b", "type": "text"}
    assert card["lineage"] == {"build": 7, "loads": [1, 2, 3]}
    assert card["digest"] == bundle.digest


@pytest.mark.parametrize("name", KINDS)
def test_a_problem_document_says_its_kind(name):
    response = Refused(name, "because", field="attr_a").response()
    problem = json.loads(response.body)
    assert response.status_code == problem["status"] == KINDS[name].status
    assert response.media_type == "application/problem+json"
    assert problem["type"] == f"/docs#{name}"
    assert (problem["detail"], problem["field"]) == ("because", "attr_a")


def test_the_page_of_documentation_names_no_other_site():
    page = files("gristmill.serving").joinpath("docs.html").read_text(encoding="utf-8")
    for mark in ("http://", "https://", "//cdn", "@import", "src=", "url("):
        assert mark not in page
