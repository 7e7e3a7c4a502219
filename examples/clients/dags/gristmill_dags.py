"""The workflows of `gristmill.toml`, as Airflow DAGs."""

from gristmill.orchestration.dag import make_dags

globals().update(make_dags(__file__))
