-- Run once, by the image's superuser, when the volume is empty: two databases, each with its owner.
-- Passwords come by the environment; the users of the project are made by Gristmill itself.
\set ON_ERROR_STOP on
\getenv admin_password ADMIN_PASSWORD
\getenv api_password API_DATABASE_PASSWORD
\getenv airflow_password AIRFLOW_DATABASE_PASSWORD
\getenv mlflow_password MLFLOW_DATABASE_PASSWORD

CREATE ROLE admin LOGIN CREATEROLE PASSWORD :'admin_password';
CREATE DATABASE companydata OWNER admin;
REVOKE ALL ON DATABASE companydata FROM PUBLIC;

-- What these may do comes with the tables, by give_rights.py.
CREATE ROLE api LOGIN PASSWORD :'api_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
GRANT CONNECT ON DATABASE companydata TO mlflow;

CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE DATABASE airflow OWNER airflow;
REVOKE ALL ON DATABASE airflow FROM PUBLIC;

\connect companydata
-- So no SQL of a derived table leaves the limited role that it runs as.
REVOKE EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO admin WITH GRANT OPTION;
