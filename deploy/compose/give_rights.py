"""Gives the services that have a user of their own in the database their rights, and no more.

The API reads what readers may, and records answers and outcomes. MLflow's pages keep its tables,
which are made here: they belong to who trains.
"""

import os
import sys

import psycopg
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gristmill.registry.tracking import tracking_url

STATEMENTS = (
    "GRANT companydata_read TO api",
    "GRANT INSERT ON gristmill.predictions, gristmill.outcomes TO api",
    "GRANT UPDATE (outcome) ON gristmill.outcomes TO api",
    "GRANT USAGE ON SCHEMA mlflow TO mlflow",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA mlflow TO mlflow",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA mlflow TO mlflow",
)

database = os.environ["GRISTMILL_DATABASE_URL"]
try:
    MlflowClient(tracking_url(database)).search_experiments(max_results=1)
    with psycopg.connect(database) as connection:
        for statement in STATEMENTS:
            connection.execute(statement)
except (psycopg.Error, MlflowException) as error:
    sys.exit(f"The services' users of the database cannot be given their rights: {error}")
