"""The report of a model: what stands first, what is escaped, and that it needs nothing else."""

import re
from dataclasses import asdict
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature
from gristmill.training.calibrate import Calibration
from gristmill.training.evaluate import evaluate
from gristmill.training.fit import CandidateResult, FittedModel
from gristmill.training.gate import Verdict
from gristmill.training.report.examine import examine
from gristmill.training.report.model import model_report
from gristmill.training.split import split

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
MADE_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
LINEAGE = {
    "builds": [6, 7],
    "loads": [
        {"load": 3, "table_name": "labels", "period": "all", "file": HOSTILE, "etag": '"e1"'},
    ],
    "code_version": "0.1.0",
    "seed": 3,
    "project": {"commit": "c0ffee" * 6 + "c0ff", "files": {"sql/a_b.sql": "ab" * 32, HOSTILE: ""}},
}


class Slope:
    """Knows the number alone."""

    def __init__(self, name):
        self.name = name

    def probabilities(self, table):
        values = table.column(self.name).fill_null(0.0).to_numpy()
        return 1 / (1 + np.exp(-values))


def examined(*, decision="promote", no_signal=False, evidence=None, name="x", rows=3000):
    """A model examined on rows with hostile categories; the number may have a hostile name."""
    random = np.random.default_rng(1)
    values = random.normal(size=rows)
    table = pa.table(
        {
            "idx": np.arange(rows),
            name: pa.array(values, mask=random.random(rows) < 0.1),
            "shop": random.choice(["a", HOSTILE, "\u202eevil", "</style>", ""], rows),
            "label": (random.random(rows) < 1 / (1 + np.exp(-values))).astype(np.int64),
        }
    )
    features = (Feature(name=name, type="number"), Feature(name="shop", type="text"))
    known = TrainingSet(entity="idx", features=features, label="label", table=table, build=7)
    parts = split(known, salt="clients", share=0.3)
    model = Slope(name)
    scores = model.probabilities(parts.holdout.table)
    fitted = FittedModel(
        candidate="logistic",
        features=features,
        pipeline=None,
        calibration=Calibration(),
        threshold=0.5,
        results=(CandidateResult(candidate="logistic", metric="roc_auc", folds=(0.7, 0.71, 0.69)),),
        rows=len(parts.training.labels),
        seed=3,
    )
    verdict = Verdict(
        decision=decision, reasons=("It is <so>.",), no_signal=no_signal, p_value=1e-9,
        evidence=evidence or {},
    )  # fmt: skip
    return examine(
        project="clients",
        known=known,
        parts=parts,
        fitted=fitted,
        evaluation=evaluate(parts.holdout.labels, scores, threshold=0.5),
        verdict=asdict(verdict),
        model=model,
        scores=scores,
    )


def written(found, **changes):
    given = {"version": "3", "created_at": MADE_AT, "lineage": LINEAGE}
    return model_report(found, **given | changes)


@pytest.fixture(scope="module")
def page():
    return written(examined(name=HOSTILE))


class Reader(HTMLParser):
    """An independent reader of what the page holds."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.text = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data.strip())


def test_the_verdict_is_the_first_thing_said(page):
    said = [text for text in Reader(page.partition("<body>")[2]).text if text]
    assert said[2] == "Promote"
    assert said[3].startswith("On ")
    assert "better than chance: AUC 0." in said[3]
    assert said[4] == "It is <so>."


@pytest.mark.parametrize(
    ("decision", "no_signal", "word", "sentence"),
    [
        ("promote", False, "Promote", "better than chance"),
        ("promote", True, "Promote", "was not shown to be better than chance, and may answer"),
        ("refuse", True, "Refuse", "no better than chance"),
        ("refuse", False, "Refuse", "yet not fit to answer"),
        ("cannot tell", True, "Cannot tell", "not shown to be better than chance"),
        ("cannot tell", False, "Cannot tell", "is open"),
    ],
)
def test_each_verdict_has_its_sentence(decision, no_signal, word, sentence):
    found = written(examined(decision=decision, no_signal=no_signal, rows=600))
    heading = re.search("<h1>(.*?)</h1>", found, re.DOTALL)[1]
    assert f">{word}<" in heading
    assert sentence in heading


def test_nothing_of_the_data_becomes_markup(page):
    read = Reader(page)
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "form", "base"}
    names = {name for _, attributes in read.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert HOSTILE[:50] in " ".join(read.text)
    assert len([tag for tag, _ in read.elements if tag == "style"]) == 1


def test_it_names_no_other_address(page):
    links = [
        value
        for _, attributes in Reader(page).elements
        for name, value in attributes.items()
        if name in {"href", "src", "xlink:href", "action", "data"}
    ]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "url(" not in page
    assert "@import" not in page
    assert "://" not in page


def test_its_policy_allows_its_style_and_nothing_else(page):
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("<style>")


def test_every_chart_says_what_it_shows(page):
    charts = [attrs for tag, attrs in Reader(page).elements if tag == "svg"]
    assert len(charts) > 8
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in charts)


def test_origin_metrics_and_intervals_are_there(page):
    text = " ".join(Reader(page).text)
    for said in (
        "build 7",
        "load",
        '"e1"',
        "code version 0.1.0",
        "seed 3",
        "0.7000, 0.7100, 0.6900",
    ):
        assert said in text, said
    found = examined(name=HOSTILE)
    area = found.evaluation["roc_auc"]
    assert f"{area['low']:.3f} to {area['high']:.3f}" in text
    low, high = found.intervals["average_precision"]
    assert f"{low:.3f} to {high:.3f}" in text
    assert len(page) < 300_000


def test_evidence_that_nobody_foresaw_is_shown():
    evidence = {
        "signal": {"value": 0.71, "low": 0.69, "high": 0.73, "p_value": 0.0},
        "leaks": [{"feature": HOSTILE, "kind": "null", "area": 0.999}],
        "something_new": {"deep": {"deeper": [1, 2, {"x": None}]}, "many": list(range(1000))},
        "nothing": None,
        "champion": {"obstacle": "", "lost": [], "allowed": 0.05},
        "replay": {"since": "2026-11-23T10:16:41.897881+00:00", "to_one": 4},
    }
    text = " ".join(Reader(written(examined(evidence=evidence, rows=600))).text)
    assert "0.7100 (0.6900 to 0.7300)" in text
    assert "below 0.0001" in text
    assert HOSTILE in text
    assert "Something new" in text
    assert "and 950 more" in text
    assert "Against the champion p value allowed 0.05" in text  # and nothing of what is empty
    assert "since 2026-11-23 10:16 UTC from 0 to 1 4" in text


def test_a_metric_that_nobody_foresaw_is_shown():
    found = examined(rows=600)
    found.evaluation["expected_cost"] = {"value": 1.25, "low": 1.125, "high": 1.5}
    text = " ".join(Reader(written(found)).text)
    assert "expected cost 1.250 1.125 to 1.500" in text


def test_the_projects_commit_and_files_are_told(page):
    text = " ".join(Reader(page).text)
    assert f"commit of the project {LINEAGE['project']['commit']}" in text
    assert f"sql/a_b.sql {'ab' * 32}" in text

    nowhere = {**LINEAGE, "project": {"commit": None, "files": {}}}
    page = written(examined(rows=600), lineage=nowhere)
    assert "not in a git work tree" in " ".join(Reader(page).text)


def test_the_same_model_gives_the_same_page():
    assert written(examined(rows=600)) == written(examined(rows=600))
