"""Named queries from `.sql` files: `-- name: …`, one sentence of comment, the statement."""

from __future__ import annotations

import re
from importlib.resources import files

from psycopg import sql

_BLOCK = re.compile(r"^-- name: (?P<name>\w+)\n(?P<body>.*?)(?=^-- name: |\Z)", re.M | re.S)


class Queries:
    """The queries of one file, each an attribute; a misspelt one is an AttributeError."""

    def __init__(self, package: str, file: str) -> None:
        text = files(package).joinpath(file).read_text(encoding="utf-8")
        self._queries = {
            block["name"]: sql.SQL(block["body"].strip().rstrip(";"))
            for block in _BLOCK.finditer(text)
        }
        self._file = f"{package}/{file}"

    def __getattr__(self, name: str) -> sql.SQL:
        try:
            return self._queries[name]
        except KeyError:
            raise AttributeError(f"{self._file} has no query named {name!r}") from None

    def __dir__(self) -> list[str]:
        return list(self._queries)


def load_queries(package: str, file: str) -> Queries:
    """Read the queries of a file that lies in a package."""
    return Queries(package, file)
