"""Lets the API's own user read what readers may and record answers and outcomes: no more."""

import os
import sys

import psycopg

STATEMENTS = (
    "GRANT companydata_read TO api",
    "GRANT INSERT ON gristmill.predictions, gristmill.outcomes TO api",
    "GRANT UPDATE (outcome) ON gristmill.outcomes TO api",
)

try:
    with psycopg.connect(os.environ["GRISTMILL_DATABASE_URL"]) as connection:
        for statement in STATEMENTS:
            connection.execute(statement)
except psycopg.Error as error:
    sys.exit(f"The API's user of the database cannot be given its rights: {error}")
