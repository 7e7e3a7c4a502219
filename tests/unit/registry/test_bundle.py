"""A bundle is exactly what was written, or it is refused before anything in it is parsed."""

import contextlib
import hashlib
import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gristmill.errors import BundleError
from gristmill.registry.bundle import copy_bundle, read_bundle, write_bundle
from gristmill.registry.graph import check_graph


def _rewrite(folder, name, content):
    """Replace a file and mend its digest: what a careful forger does."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _change_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_reads_back_as_it_was_written(example_model, tmp_path):
    written = example_model.write(tmp_path / "3", report="<p>fine</p>")
    read = read_bundle(tmp_path / "3")
    assert read == written
    assert read.graph == example_model.graph()
    assert read.manifest.features == example_model.features
    assert read.manifest.created_at == example_model.manifest().created_at
    assert read.manifest.lineage == {"build": 7, "loads": [1, 2, 3]}
    assert set(read.manifest.files) == {
        "model.onnx",
        "samples.json",
        "reference.parquet",
        "report.html",
    }
    assert len(read.samples) == 8
    assert "weights" not in repr(read)


def test_the_digests_are_those_of_the_files(bundle_folder):
    manifest = json.loads((bundle_folder / "manifest.json").read_text())
    for name, expected in manifest["files"].items():
        content = (bundle_folder / name).read_bytes()
        assert expected == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_the_reference_counts_every_row_of_every_feature(bundle_folder):
    rows = read_bundle(bundle_folder).reference.to_pylist()
    for feature in ("attr_a", "attr_b", "scd_a", "scd_b"):
        assert sum(row["rows"] for row in rows if row["feature"] == feature) == 4
    nulls = {row["feature"]: row["rows"] for row in rows if row["kind"] == "null"}
    assert nulls == {"attr_a": 1, "attr_b": 1, "scd_a": 0, "scd_b": 0}


def test_a_bundle_is_never_written_over(example_model, bundle_folder):
    before = (bundle_folder / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="there already"):
        example_model.write(bundle_folder)
    assert (bundle_folder / "manifest.json").read_bytes() == before


def test_what_cannot_be_written_leaves_nothing_behind(example_model, tmp_path):
    manifest = example_model.manifest(metrics={"roc_auc": float("nan")})
    with pytest.raises(BundleError, match="finite"):
        example_model.write(tmp_path / "3", manifest=manifest)
    with pytest.raises(BundleError, match="no sample"):
        write_bundle(
            tmp_path / "3",
            manifest=example_model.manifest(),
            graph=example_model.graph(),
            samples=[],
            reference=example_model.table,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx", "samples.json", "reference.parquet"])
def test_a_changed_byte_of_any_file_is_refused(bundle_folder, name):
    content = bytearray((bundle_folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle_folder / name).write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle_folder)
    found = hashlib.sha256(content).hexdigest()
    assert name in str(caught.value)
    assert found in str(caught.value)


def test_a_changed_manifest_is_refused_where_its_digest_is_known(bundle_folder):
    digest = read_bundle(bundle_folder).digest
    read_bundle(bundle_folder, digest=digest)
    _change_manifest(bundle_folder, lambda manifest: manifest.update(threshold=0.9))
    with pytest.raises(BundleError, match=r"manifest\.json is not what it should be"):
        read_bundle(bundle_folder, digest=digest)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "samples.json"])
def test_a_missing_file_is_named(bundle_folder, name):
    (bundle_folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        read_bundle(bundle_folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "samples.json"])
def test_a_link_is_refused_even_to_the_right_content(bundle_folder, tmp_path, name):
    shutil.move(bundle_folder / name, tmp_path / name)
    (bundle_folder / name).symlink_to(tmp_path / name)
    with pytest.raises(BundleError, match=name):
        read_bundle(bundle_folder)


def test_a_named_pipe_is_refused_and_not_waited_for(bundle_folder):
    (bundle_folder / "samples.json").unlink()
    os.mkfifo(bundle_folder / "samples.json")
    with pytest.raises(BundleError, match="plain file"):
        read_bundle(bundle_folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_folder_in_the_place_of_a_file_is_refused(bundle_folder, name):
    (bundle_folder / name).unlink()
    (bundle_folder / name).mkdir()
    with pytest.raises(BundleError, match="plain file"):
        read_bundle(bundle_folder)


def test_a_file_that_the_manifest_does_not_name_is_refused(bundle_folder):
    (bundle_folder / "extra.py").write_text("print('hello')")
    with pytest.raises(BundleError, match=r"extra\.py"):
        read_bundle(bundle_folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/model.onnx", "extra.bin", "."])
def test_the_manifest_may_name_the_files_of_a_bundle_only(bundle_folder, name):
    (bundle_folder.parent / "secret").write_bytes(b"x")
    digest = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
    _change_manifest(bundle_folder, lambda manifest: manifest["files"].update({name: digest}))
    with pytest.raises(BundleError, match="no file of a bundle"):
        read_bundle(bundle_folder)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda manifest: manifest.update(format=2), "format"),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest.update(threshold="0.5"), "threshold"),
        (lambda manifest: manifest.update(threshold=float("inf")), "threshold"),
        (lambda manifest: manifest.update(no_signal=1), "no_signal"),
        (lambda manifest: manifest["features"][0].update(type="picture"), "features.0.type"),
        (lambda manifest: manifest["features"][0].update(extra=1), "features.0.extra"),
        (lambda manifest: manifest.pop("entity"), "entity"),
        (lambda manifest: manifest["files"].pop("model.onnx"), "model.onnx"),
    ],
)
def test_a_wrong_manifest_is_refused_by_place(bundle_folder, change, place):
    _change_manifest(bundle_folder, change)
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle_folder)
    assert "manifest.json" in str(caught.value)
    assert place in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"x" * (2 << 20)])
def test_a_manifest_that_is_none_is_refused(bundle_folder, content):
    (bundle_folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read_bundle(bundle_folder)


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(BundleError, match="There is no bundle"):
        read_bundle(tmp_path / "nowhere")


def test_a_copy_is_the_same_bundle(bundle_folder, tmp_path):
    assert copy_bundle(bundle_folder, tmp_path / "moved") == read_bundle(bundle_folder)


def test_a_copy_of_a_spoilt_bundle_is_not_made(bundle_folder, tmp_path):
    (bundle_folder / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        copy_bundle(bundle_folder, tmp_path / "moved")
    assert not (tmp_path / "moved").exists()


# What a graph may hold


def _model(nodes, *, opsets=(("", 21),), constants=(), functions=()):
    given = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 1])
    answer = helper.make_tensor_value_info("probability", TensorProto.DOUBLE, [None, 1])
    graph = helper.make_graph(list(nodes), "graph", [given], [answer], list(constants))
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*opset) for opset in opsets],
        functions=list(functions),
        ir_version=10,
    )


def _branch():
    empty = helper.make_graph([], "branch", [], [])
    node = helper.make_node("If", ["condition"], ["probability"])
    node.attribute.append(helper.make_attribute("then_branch", empty))
    return _model([node])


def _elsewhere(**where):
    tensor = TensorProto(name="w", data_type=TensorProto.DOUBLE, dims=[1])
    if "location" in where:
        tensor.data_location = where["location"]
    if "path" in where:
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", where["path"]
    return tensor


def _function():
    return helper.make_function("ai.onnx", "Mine", ["x"], ["y"], [], [helper.make_opsetid("", 21)])


FORBIDDEN = {
    "a custom operator": _model([helper.make_node("Run", ["x"], ["probability"], domain="mine")]),
    "a custom domain": _model(
        [helper.make_node("Identity", ["x"], ["probability"])], opsets=(("", 21), ("mine", 1))
    ),
    "a runtime's own operator": _model(
        [helper.make_node("Gelu", ["x"], ["probability"], domain="com.microsoft")]
    ),
    "a branch": _branch(),
    "a tensor elsewhere": _model([], constants=[_elsewhere(location=1, path="hostname")]),
    "a location without its mark": _model([], constants=[_elsewhere(path="hostname")]),
    "a mark without its location": _model([], constants=[_elsewhere(location=1)]),
    "a constant elsewhere": _model(
        [helper.make_node("Constant", [], ["w"], value=_elsewhere(location=1, path="hostname"))]
    ),
    "a function": _model([], functions=[_function()]),
}


@pytest.mark.parametrize("model", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_graph_that_reaches_beyond_itself_is_refused(bundle_folder, model):
    _rewrite(bundle_folder, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleError, match=r"model\.onnx"):
        read_bundle(bundle_folder)


def test_onnx_own_operators_pass(example_model):
    trees = helper.make_node("TreeEnsemble", ["x"], ["probability"], domain="ai.onnx.ml")
    check_graph(_model([trees], opsets=(("", 21), ("ai.onnx.ml", 5))).SerializeToString())
    check_graph(example_model.graph())


@given(st.binary(max_size=200))
def test_bytes_that_are_no_graph_pass_or_are_refused_and_nothing_else(content):
    with contextlib.suppress(BundleError):
        check_graph(content)


@given(st.data())
def test_no_cut_of_a_graph_raises_anything_else(example_model, data):
    graph = example_model.graph()
    place = data.draw(st.integers(0, len(graph) - 1))
    flipped = graph[:place] + bytes([data.draw(st.integers(0, 255))]) + graph[place + 1 :]
    for content in (graph[:place], flipped):
        with contextlib.suppress(BundleError):
            check_graph(content)
