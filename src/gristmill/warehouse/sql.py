"""Statements put together safely: identifiers quoted, values bound."""

from psycopg.sql import SQL, Composed, Identifier, Literal

__all__ = ["SQL", "Composed", "Identifier", "Literal"]
