"""Tables side by side → references, who is predicted, from what, and what is to be predicted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gristmill.project import names
from gristmill.project.features import AS_OF, ColumnReference, Features
from gristmill.project.infer import Doubt
from gristmill.project.table import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gristmill.project.infer import InferredTable
    from gristmill.project.table import Column

MOST_TEXTS = 100
"""More different texts in a column are names or remarks, not a feature."""
NEARLY = 0.75
"""From this share on, values found in another table's key are told as nearly a reference."""
MOST_TOLD = 8
"""How many columns are named that are no features."""
SHARED = 0.5
"""The share of a table's entities that have to be known for its columns to be features."""


@dataclass(frozen=True, kw_only=True)
class Related:
    """Tables that know of each other."""

    tables: tuple[InferredTable, ...]
    features: Features | None
    as_of: str | None
    """A column that may say when the label was known, where that is too unsure to declare."""
    doubts: tuple[Doubt, ...]


class _Values:
    """The different values of columns, read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], set[str]] = {}

    def of(self, one: InferredTable, column: str) -> set[str]:
        at = (one.table.name, column)
        if at not in self._known:
            values = one.distinct(column)
            declared = one.table.column(column)
            if declared and declared.type == "integer":
                values = {str(int(value)) for value in values}
            self._known[at] = values
        return self._known[at]


def relate(tables: tuple[InferredTable, ...]) -> Related:
    """References between the tables, and the [features] that they allow."""
    values = _Values()
    related, doubts = _with_references(tables, values)
    labels = _labels(related)
    label = labels[0] if labels else None
    features, as_of, more = _features(related, label, values)
    if label and features and features.label:
        more += _doubts_of_label(labels)
        related = tuple(_declare_label(one, features.label) for one in related)
    return Related(tables=related, features=features, as_of=as_of, doubts=(*doubts, *more))


def _with_references(
    tables: tuple[InferredTable, ...], values: _Values
) -> tuple[tuple[InferredTable, ...], list[Doubt]]:
    found: dict[str, list[Reference]] = {one.table.name: [] for one in tables}
    doubts = []
    candidates = sorted(
        _candidates(tables), key=lambda match: _closeness(match[1], match[2], values)
    )
    for one, column, target in candidates:
        source, to_column = one.table.name, target.table.key[0]
        taken = any(reference.column == column for reference in found[source])
        if taken or _leads_to(target.table.name, source, found):
            continue
        at = f"tables.{source}.references"
        mine, theirs = values.of(one, column), values.of(target, to_column)
        unknown = len(mine - theirs)
        named = f"{column} → {target.table.name}.{to_column}"
        if mine and not unknown and target.whole:
            found[source].append(
                Reference(column=column, table=target.table.name, to_column=to_column)
            )
            if not one.whole:
                doubts.append(Doubt(at=at, message=f"{named} was true of all that was read"))
        elif mine and unknown <= len(mine) * (1 - NEARLY):
            told = f"{named} is no reference: {unknown} of {len(mine)} values were not found there"
            doubts.append(Doubt(at=at, message=told))
    related = tuple(
        replace(one, table=replace(one.table, references=tuple(found[one.table.name])))
        for one in tables
    )
    return related, doubts


def _candidates(
    tables: tuple[InferredTable, ...],
) -> Iterator[tuple[InferredTable, str, InferredTable]]:
    """Columns whose name and type are those of another table's key."""
    for one in tables:
        for column in one.table.columns:
            for target in tables:
                key = _single_key(target)
                if (
                    key is not None
                    and target.table.name != one.table.name
                    and key.type == column.type
                    and key.type in ("integer", "text")
                    and _names_match(column.name, target.table.name, key.name)
                ):
                    yield one, column.name, target


def _single_key(one: InferredTable) -> Column | None:
    """The column that alone is the key of a table which others may refer to."""
    if len(one.table.key) != 1 or one.table.period is not None:
        return None
    return one.table.column(one.table.key[0])


def _names_match(column: str, table: str, key: str) -> bool:
    if column == key and not names.is_generic(column):
        return True
    about = names.entity_words(column)
    fits = names.is_identifier(column) or about == names.entity_words(table)
    return bool(about & names.entity_words(table)) and fits


def _closeness(column: str, target: InferredTable, values: _Values) -> tuple[bool, bool, int, str]:
    """Smaller where a reference is likelier: named after it, no table of labels, a larger one."""
    about = names.entity_words(column) & names.entity_words(target.table.name)
    size = len(values.of(target, target.table.key[0]))
    return not about, names.is_label_table(target.table.name), -size, target.table.name


def _leads_to(start: str, end: str, found: dict[str, list[Reference]]) -> bool:
    return start == end or any(_leads_to(reference.table, end, found) for reference in found[start])


def _labels(tables: tuple[InferredTable, ...]) -> list[tuple[int, InferredTable, Column]]:
    """The columns that may be the label, the likeliest first, with how much speaks for each."""
    found = []
    for one in tables:
        key = _single_key(one)
        for column in one.table.columns if key else ():
            if column.name not in one.table.key and _is_binary(one, column):
                small = len(one.table.columns) <= 3
                score = 4 * names.is_label(column.name) + 4 * names.is_label_table(one.table.name)
                score += 2 * small + (column == one.table.columns[-1])
                found.append((score, one, column))
    found.sort(key=lambda candidate: -candidate[0])
    if len(found) > 1 and found[0][0] <= 1:
        return []
    return found


def _is_binary(one: InferredTable, column: Column) -> bool:
    if column.type == "boolean":
        return len(one.distinct(column.name)) > 1
    return column.type == "integer" and one.distinct(column.name) == {"0", "1"}


def _doubts_of_label(labels: list[tuple[int, InferredTable, Column]]) -> list[Doubt]:
    score, one, column = labels[0]
    others = [f"{other.table.name}.{candidate.name}" for _, other, candidate in labels[1:6]]
    if score < 4:
        told = f"{one.table.name}.{column.name} is 0 or 1, but nothing else says it is the label"
    elif len(labels) > 1 and labels[1][0] == score:
        told = f"as likely as {one.table.name}.{column.name}"
    else:
        return []
    also = f"; also 0 or 1: {', '.join(others)}" if others else ""
    return [Doubt(at="features.label", message=told + also)]


def _declare_label(one: InferredTable, label: ColumnReference) -> InferredTable:
    if one.table.name != label.table:
        return one
    columns = tuple(
        replace(column, allowed=(0, 1))
        if column.name == label.column and column.type == "integer"
        else column
        for column in one.table.columns
    )
    return replace(one, table=replace(one.table, columns=columns))


def _features(
    tables: tuple[InferredTable, ...],
    label: tuple[int, InferredTable, Column] | None,
    values: _Values,
) -> tuple[Features | None, str | None, list[Doubt]]:
    """[features], a column that may be `as_of`, and what is not sure about them."""
    entity, doubts = _entity(tables, label, values)
    if entity is None:
        return None, None, doubts
    key = entity.table.key[0]
    labelled = label[1] if label and _joins(label[1], entity, values) else None
    label_column = label[2].name if label and labelled else None
    if label_column and not _referable(label_column):
        told = f"{label_column!r} has a point in its name, so it cannot be the label: rename it"
        doubts.append(Doubt(at="features.label", message=told))
        labelled = label_column = None
    as_of, maybe = _as_of(labelled, entity)
    own = {name for name in (label_column, as_of, maybe) if name}
    sources = [
        one
        for one in sorted(tables, key=lambda table: table is not entity)
        if _joins(one, entity, values) and not _holds_labels_only(one, labelled, entity)
    ]
    chosen, left_out = _chosen(sources, entity, {key, AS_OF} | own, labelled, own)
    if left_out:
        more = f" and {len(left_out) - MOST_TOLD} more" if len(left_out) > MOST_TOLD else ""
        told = f"left out: {', '.join(left_out[:MOST_TOLD])}{more}"
        doubts.append(Doubt(at="features.features", message=told))
    if not chosen:
        told = f"no column is a feature of {entity.table.name}.{key}; derive some by SQL"
        return None, None, [*doubts, Doubt(at="features", message=told)]

    def of_label(column: str | None) -> ColumnReference | None:
        if labelled is None or column is None:
            return None
        return ColumnReference(table=labelled.table.name, column=column)

    features = Features(
        table="feature_store",
        entity=ColumnReference(table=entity.table.name, column=key),
        features=tuple(chosen),
        label=of_label(label_column),
        as_of=of_label(as_of),
    )
    return features, str(of_label(maybe)) if maybe else None, doubts


def _holds_labels_only(
    one: InferredTable, labelled: InferredTable | None, entity: InferredTable
) -> bool:
    """Whether what else stands beside the label is more likely about the label than a feature."""
    return one is labelled and one is not entity and len(one.table.columns) <= 4


def _chosen(
    sources: list[InferredTable],
    entity: InferredTable,
    taken: set[str],
    labelled: InferredTable | None,
    own: set[str],
) -> tuple[list[ColumnReference], list[str]]:
    """The columns that are features, and in words those that are not and might have been."""
    chosen: list[ColumnReference] = []
    left_out: list[str] = []
    names_taken = set(taken)
    for one in sources:
        for column in one.table.columns:
            if one is labelled and column.name in own:
                continue
            reference = ColumnReference(table=one.table.name, column=column.name)
            reason = _no_feature(one, column, entity)
            if reason is None and column.name in names_taken:
                reason = "the name is taken"
            if reason:
                left_out.append(f"{reference} ({reason})")
            elif reason is None:
                chosen.append(reference)
                names_taken.add(column.name)
    return chosen, left_out


def _entity(
    tables: tuple[InferredTable, ...],
    label: tuple[int, InferredTable, Column] | None,
    values: _Values,
) -> tuple[InferredTable | None, list[Doubt]]:
    """The table that lists who there is: that of the label, or the one most others join."""
    usable = [one for one in tables if (key := _single_key(one)) and _referable(key.name)]
    if label is None:
        joined = {
            one.table.name: sum(_joins(other, one, values) for other in tables if other is not one)
            for one in usable
        }
        best = max(usable, key=lambda one: joined[one.table.name], default=None)
        if best is None or joined[best.table.name] == 0:
            told = "no column looks like a label, and no table lists who is to be predicted"
            return None, [Doubt(at="features", message=told)]
        told = "no column looks like a label; name one, and a [model]"
        return best, [Doubt(at="features.label", message=told)]
    source = label[1]
    parents = [
        one
        for one in usable
        if one is not source
        and _joins(source, one, values)
        and values.of(source, source.table.key[0]) <= values.of(one, one.table.key[0])
        and not names.is_label_table(one.table.name)
    ]
    for reference in source.table.references:
        if (reference.column,) == source.table.key:
            parents.sort(key=lambda one: one.table.name != reference.table)
    if not parents and source not in usable:
        told = f"the key of {source.table.name} has a point in its name: rename it"
        return None, [Doubt(at="features", message=told)]
    return (parents[0] if parents else source), []


def _referable(column: str) -> bool:
    """Whether `table.column` can name it."""
    return "." not in column


def _joins(one: InferredTable, entity: InferredTable, values: _Values) -> bool:
    """Whether a table has one row for an entity at a time, and knows the same entities."""
    if one is entity:
        return True
    key = entity.table.key[0]
    column = next(
        (
            reference.column
            for reference in one.table.references
            if (reference.table, reference.to_column) == (entity.table.name, key)
        ),
        key if one.table.column(key) else None,
    )
    if column is None or one.table.period is not None:
        return False
    mine, theirs = one.table.column(column), entity.table.column(key)
    if mine is None or theirs is None or mine.type != theirs.type:
        return False
    if set(one.table.key) != {column, *one.table.valid[:1]}:
        return False
    known, there = values.of(one, column), values.of(entity, key)
    common = len(known & there)
    labels = names.is_label_table(one.table.name) or names.is_label(one.table.name)
    if column != key or not names.is_generic(key) or labels:
        return common >= SHARED * max(len(known), 1)
    # Rows counted from one agree with anything that is counted from one.
    counted = bool({"0", "1"} & known & there)
    enough = max(len(known), len(there)) if counted else len(known)
    return not names.counts_rows(key) and common >= SHARED * max(enough, 1)


def _no_feature(one: InferredTable, column: Column, entity: InferredTable) -> str | None:
    """Why a column is no feature: "" where that goes without saying; None where it is one."""
    table = one.table
    if column.name in (*table.key, *table.valid):
        return ""
    if any(reference.column == column.name for reference in table.references):
        return "a reference"
    if not _referable(column.name):
        return "a point in its name"
    if column.type != "text":
        return "an identifier" if names.is_identifier(column.name) and one is entity else None
    different = len(one.distinct(column.name))
    if different > MOST_TEXTS or (different > 20 and different > one.rows // 2):
        return f"{different:,} different texts"
    return "always null" if different == 0 else None


def _as_of(labelled: InferredTable | None, entity: InferredTable) -> tuple[str | None, str | None]:
    """The column that says when the label was known, and one that only may."""
    if labelled is None:
        return None, None
    moments = [
        column.name
        for column in labelled.table.columns
        if column.type in ("date", "timestamp")
        and not column.nullable
        and column.name not in labelled.table.key
        and _referable(column.name)
    ]
    sure = next((name for name in moments if names.is_as_of(name)), None)
    if sure:
        return sure, None
    if labelled is entity or not moments:
        return None, None
    return None, moments[0]
