"""What the name of a column or table suggests: an identifier, a label, a validity."""

from __future__ import annotations

import re

_IDENTIFIERS = {
    "id", "idx", "key", "code", "uuid", "guid", "no", "nr", "num", "number", "sku", "ean", "isbn",
    "pk", "rownames", "rowid", "index",
}  # fmt: skip
_NO_IDENTIFIERS = {
    "paid", "bid", "grid", "valid", "invalid", "void", "solid", "humid", "liquid", "covid",
    "avoid", "acid", "aid", "mid", "rapid", "said", "fluid", "hybrid", "druid", "unpaid",
}  # fmt: skip
_CALENDAR = {"year", "month", "day", "week", "quarter", "period", "date", "hour", "time"}
_GENERIC = _IDENTIFIERS | _CALENDAR | {"name", "title", "type", "label", "value", "class", "status"}
_LABELS = {
    "label", "target", "outcome", "y", "churn", "churned", "converted", "conversion", "defaulted",
    "response", "responded", "survived", "survival", "died", "death", "dead", "fraud", "bought",
    "buys", "cancelled", "cancel", "renewed", "clicked", "returned", "improved", "positive",
    "relapse", "relapsed", "failure", "failed", "won", "success",
}  # fmt: skip
_LABEL_TABLES = {"label", "labels", "target", "targets", "outcome", "outcomes"}
_AS_OF = {"as_of", "asof", "observed_on", "observed_at", "label_date", "snapshot_date", "snapshot",
          "cutoff", "cutoff_date", "reference_date", "known_on", "known_at"}  # fmt: skip
_VALIDITIES = (
    ("valid_from", "valid_to"), ("valid_from", "valid_until"), ("effective_from", "effective_to"),
    ("start_date", "end_date"), ("start", "end"), ("start", "stop"), ("starts", "ends"),
    ("from", "to"), ("from", "until"), ("since", "until"), ("begin", "end"),
)  # fmt: skip
SINCE = ("valid_from", "effective_from", "since")
"""Names of the beginning of a history's rows that need no end beside them."""


def words(name: str) -> list[str]:
    """The words of a name, in lower case: `customerID` and `customer_id` have the same two."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]


def is_identifier(name: str) -> bool:
    """Whether a column of that name would tell rows apart."""
    parts = words(name)
    if not parts:
        return False
    last = parts[-1]
    fused = re.fullmatch(r"[a-z]{2,}id", last) is not None and last not in _NO_IDENTIFIERS
    return last in _IDENTIFIERS or parts[0] == "id" or fused


def counts_rows(name: str) -> bool:
    """Whether the column only numbers the rows of its file, so that no other table knows of it."""
    return "".join(words(name)) in {"rownames", "rowid", "rownumber", "row", "index"}


def is_calendar(name: str) -> bool:
    """Whether the name is that of a part of time."""
    parts = words(name)
    return bool(parts) and parts[-1] in _CALENDAR


def is_generic(name: str) -> bool:
    """Whether columns of that name in two tables need have nothing to do with each other."""
    return all(word in _GENERIC for word in words(name))


def is_label(name: str) -> bool:
    """Whether the name is one that people give to what is to be predicted."""
    return any(word in _LABELS for word in words(name))


def is_label_table(name: str) -> bool:
    """Whether the table's name says that it holds labels."""
    return any(word in _LABEL_TABLES for word in words(name))


def is_as_of(name: str) -> bool:
    """Whether the name says when a label was known."""
    return "_".join(words(name)) in _AS_OF


def validity_pairs(names: list[str]) -> list[tuple[str, str]]:
    """Columns whose names say since when and until when, such as valid_from and valid_to."""
    spelled = {"_".join(words(name)): name for name in names}
    pairs = []
    for first, last in _VALIDITIES:
        for spelling, name in spelled.items():
            if spelling == first or spelling.endswith(f"_{first}"):
                other = spelling.removesuffix(first) + last
                if other in spelled:
                    pairs.append((name, spelled[other]))
    return list(dict.fromkeys(pairs))


def entity_words(name: str) -> set[str]:
    """What a column or table is about, in the singular: `customer` of customer_id and customers."""
    return {singular(word) for word in words(name) if not {word, singular(word)} & _GENERIC}


def singular(word: str) -> str:
    """An English noun without its plural."""
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
