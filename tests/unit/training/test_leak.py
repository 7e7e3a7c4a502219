import numpy as np
import pyarrow as pa
import pytest

from gristmill.features.encode import encode_table
from gristmill.project.features import Feature
from gristmill.training.leak import find_leaks
from gristmill.training.split import Sample


def sample(rows=2000, *, share=0.3, seed=0, **columns):
    """Labels and the columns that functions make of labels and a random generator."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < share).astype(np.int64)
    table = pa.table({name: make(labels, random) for name, make in columns.items()})
    kinds = {pa.string(): "text", pa.float64(): "number", pa.int64(): "integer"}
    features = [Feature(name=name, type=kinds[table.schema.field(name).type]) for name in columns]
    return Sample(inputs=encode_table(table, features), labels=labels, table=table), features


def leaks(**columns):
    return {leak.feature: leak.kind for leak in find_leaks(*sample(**columns))}


def test_a_number_that_decides_the_label_is_named():
    assert leaks(
        rising=lambda labels, random: labels + 0.3 * random.random(len(labels)),
        falling=lambda labels, random: pa.array(-5 * labels + random.integers(0, 4, len(labels))),
        inside=lambda labels, random: np.where(
            labels == 1, random.random(len(labels)), random.choice([-2.0, 2.0], len(labels))
        ),
        strong=lambda labels, random: labels + 0.5 * random.normal(size=len(labels)),
    ) == {"rising": "value", "falling": "value", "inside": "value"}


def test_null_exactly_with_the_label_is_named():
    def null_where(of):
        return lambda labels, random: pa.array(random.random(len(labels)), mask=labels == of)

    assert leaks(
        cancelled=null_where(0),
        kept=null_where(1),
        reason=lambda labels, random: pa.array(["x" if label else None for label in labels]),
        often=lambda labels, random: pa.array(
            random.random(len(labels)), mask=random.random(len(labels)) < 0.2 + 0.6 * labels
        ),
    ) == {"cancelled": "null", "kept": "null", "reason": "null"}


def test_a_text_that_decides_the_label_is_named_and_an_identifier_is_not():
    assert leaks(
        status=lambda labels, random: pa.array(
            [("churned" if label else random.choice(["new", "old"])) for label in labels]
        ),
        name=lambda labels, random: pa.array([f"n{number}" for number in range(len(labels))]),
        number=lambda labels, random: pa.array(np.arange(len(labels))),
        shop=lambda labels, random: pa.array(
            [f"s{number}" for number in random.integers(0, 300, len(labels))]
        ),
    ) == {"status": "value"}


@pytest.mark.parametrize("seed", range(20))
def test_of_few_rows_noise_is_no_leak(seed):
    found = leaks(
        rows=40,
        share=0.5,
        seed=seed,
        number=lambda labels, random: random.normal(size=len(labels)),
        text=lambda labels, random: pa.array([f"t{one}" for one in random.integers(0, 9, 40)]),
        empty=lambda labels, random: pa.array([None] * len(labels), pa.float64()),
    )
    assert found == {}


def test_it_says_which_and_how():
    training, features = sample(late=lambda labels, random: pa.array([*labels], mask=labels == 0))
    (leak,) = find_leaks(training, features)

    assert leak.area == 1.0
    assert leak.sentence.startswith("Already whether late is null decides the label")
