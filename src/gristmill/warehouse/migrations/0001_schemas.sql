-- The schemas, and the tables that record what was loaded, built, trained and answered.

CREATE SCHEMA IF NOT EXISTS gristmill;
CREATE SCHEMA IF NOT EXISTS raw;
CREATE SCHEMA IF NOT EXISTS builds;
CREATE SCHEMA IF NOT EXISTS mlflow;

CREATE TABLE gristmill.migrations (
    name       text PRIMARY KEY,
    digest     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row per load: which version of which object is in, by which contract; refused ones too.
-- An undone load is not taken in again by itself; a dropped one has only its row left.
-- `readers` are the transactions that may still see a superseded one as current.
CREATE TABLE gristmill.loads (
    load        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name  text NOT NULL,
    period      text NOT NULL,
    file        text NOT NULL,
    etag        text NOT NULL,
    bytes       bigint NOT NULL,
    modified_at timestamptz NOT NULL,
    contract    text NOT NULL,
    status      text NOT NULL CHECK (status IN ('loaded', 'refused')),
    rows        bigint NOT NULL,
    rejected    bigint NOT NULL,
    rules       jsonb NOT NULL DEFAULT '{}',
    seconds     double precision NOT NULL,
    loaded_at   timestamptz NOT NULL DEFAULT now(),
    undone_at   timestamptz,
    dropped_at  timestamptz,
    readers     text[]
);
CREATE INDEX loads_by_period ON gristmill.loads (table_name, period, load);

-- The marks that the views read: which load of a period is the current one.
CREATE TABLE gristmill.current_loads (
    table_name text NOT NULL,
    period     text NOT NULL,
    load       integer NOT NULL REFERENCES gristmill.loads,
    previous   integer,
    PRIMARY KEY (table_name, period)
);

CREATE TABLE gristmill.rejects (
    load   integer NOT NULL REFERENCES gristmill.loads ON DELETE CASCADE,
    file   text NOT NULL,
    line   integer NOT NULL,
    rule   text NOT NULL,
    reason text NOT NULL,
    raw    text
);
CREATE INDEX rejects_by_load ON gristmill.rejects (load, rule, line);

-- One row per build, with the definition and the loads and builds that it was made from.
CREATE TABLE gristmill.builds (
    build      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL,
    period     text NOT NULL,
    definition text NOT NULL,
    loads      integer[] NOT NULL,
    builds     integer[] NOT NULL,
    as_of      timestamptz NOT NULL,
    rows       bigint NOT NULL,
    seconds    double precision NOT NULL,
    built_at   timestamptz NOT NULL DEFAULT now(),
    dropped_at timestamptz,
    readers    text[]
);
CREATE INDEX builds_by_period ON gristmill.builds (name, period, build);

CREATE TABLE gristmill.current_builds (
    name     text NOT NULL,
    period   text NOT NULL,
    build    integer NOT NULL REFERENCES gristmill.builds,
    previous integer,
    PRIMARY KEY (name, period)
);

-- What the views show. Declared immutable, so that PostgreSQL reads the marks while it plans a
-- query, where it also finds the partitions: read while the query runs, a mark could name what was
-- attached after the planning, and its month would be missing. A transaction is visible shortly
-- before others are told of the partition that it attached; until they are, it holds its lock, and
-- the copy before is shown. Opening a table that nobody else opens takes in what was told so far.
-- Cached plans are made anew whenever something is attached; who moves a mark without attaching
-- has to see to that (`plan_anew`).
CREATE TABLE gristmill.told ();

CREATE FUNCTION gristmill.is_told(kind integer, number integer) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL SAFE SET search_path = pg_catalog
AS $$
    SELECT CASE WHEN pg_try_advisory_lock_shared(kind, number)
                THEN pg_advisory_unlock_shared(kind, number) ELSE false END
$$;

CREATE FUNCTION gristmill.shown_loads(of_table text) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
AS $$
DECLARE
    shown integer[];
BEGIN
    SELECT array_agg(CASE WHEN previous IS NULL OR gristmill.is_told(6018463, load)
                          THEN load ELSE previous END)
    INTO shown FROM gristmill.current_loads WHERE table_name = of_table;
    PERFORM pg_relation_size('gristmill.told');
    RETURN coalesce(shown, '{}');
END
$$;

CREATE FUNCTION gristmill.shown_builds(of_name text) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
AS $$
DECLARE
    shown integer[];
BEGIN
    SELECT array_agg(CASE WHEN previous IS NULL OR gristmill.is_told(6018464, build)
                          THEN build ELSE previous END)
    INTO shown FROM gristmill.current_builds WHERE name = of_name;
    PERFORM pg_relation_size('gristmill.told');
    RETURN coalesce(shown, '{}');
END
$$;

CREATE TABLE gristmill.runs (
    run         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    step        text NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('done', 'failed')),
    message     text NOT NULL
);

-- The model versions and what was judged of them; the tracking server holds the runs beside it.
CREATE TABLE gristmill.model_versions (
    version       text PRIMARY KEY,
    candidate     text NOT NULL,
    verdict       text NOT NULL CHECK (verdict IN ('promote', 'refuse', 'cannot tell')),
    reasons       jsonb NOT NULL,
    no_signal     boolean NOT NULL,
    evaluation    jsonb NOT NULL,
    build         integer NOT NULL REFERENCES gristmill.builds,
    lineage       jsonb NOT NULL,
    run_id        text NOT NULL,
    bundle        text NOT NULL,
    code_version  text NOT NULL,
    seed          bigint NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now()
);

-- The truth about the champion: the last row answers.
CREATE TABLE gristmill.promotions (
    promotion   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version     text NOT NULL REFERENCES gristmill.model_versions,
    promoted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    by          text NOT NULL,
    why         text NOT NULL,
    rolled_back boolean NOT NULL DEFAULT false -- whether it takes the promotion before it back
);

CREATE TABLE gristmill.predictions (
    prediction_id uuid PRIMARY KEY,
    entity        text NOT NULL,
    features      jsonb NOT NULL,
    probability   double precision NOT NULL,
    label         integer NOT NULL,
    model_version text NOT NULL,
    predicted_at  timestamptz NOT NULL,
    latency_ms    double precision NOT NULL
);
CREATE INDEX predictions_by_entity ON gristmill.predictions (entity, predicted_at);

CREATE TABLE gristmill.outcomes (
    entity      text NOT NULL,
    outcome     integer NOT NULL,
    observed_at timestamptz NOT NULL,
    PRIMARY KEY (entity, observed_at)
);

CREATE TABLE gristmill.findings (
    finding  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    found_at timestamptz NOT NULL DEFAULT now(),
    subject  text NOT NULL,
    message  text NOT NULL
);
