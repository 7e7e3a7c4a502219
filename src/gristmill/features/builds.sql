-- name: lock
-- One process at a time builds a period of a name; released with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('build ' || %(name)s || ' ' || %(period)s, 0));

-- name: current
-- What is built: the current build of each period of a name.
SELECT builds.build, builds.period, builds.definition, builds.loads, builds.builds, builds.as_of,
       builds.rows, builds.built_at
FROM gristmill.current_builds JOIN gristmill.builds USING (build)
WHERE builds.name = %(name)s
ORDER BY builds.period;

-- name: current_loads
-- The current loads of a table, by period.
SELECT period, load FROM gristmill.current_loads WHERE table_name = %(name)s ORDER BY period;

-- name: next_build
-- A number for a build that begins.
SELECT nextval(pg_get_serial_sequence('gristmill.builds', 'build'))::integer;

-- name: record
-- The ledger row of a build.
INSERT INTO gristmill.builds (build, name, period, definition, loads, builds, as_of, rows, seconds)
OVERRIDING SYSTEM VALUE
VALUES (%(build)s, %(name)s, %(period)s, %(definition)s, %(loads)s, %(builds)s, %(as_of)s,
        %(rows)s, %(seconds)s);

-- name: hold
-- Held, past the commit, until others have been told of what is attached; but where all marks are
-- this transaction's the parent may be new, and nobody has listed its partitions before.
SELECT pg_advisory_lock(6018464, %(build)s) WHERE EXISTS (
    SELECT FROM gristmill.current_builds
    WHERE name = %(name)s AND xmin <> pg_current_xact_id()::xid
);

-- name: mark
-- Moves the mark that the view reads.
INSERT INTO gristmill.current_builds (name, period, build)
VALUES (%(name)s, %(period)s, %(build)s)
ON CONFLICT (name, period)
DO UPDATE SET previous = current_builds.build, build = excluded.build;

-- name: unmark
-- Takes the mark from periods whose source is no longer there.
DELETE FROM gristmill.current_builds WHERE name = %(name)s AND NOT period = ANY (%(periods)s);

-- name: columns
-- A relation's columns as the catalog has them.
SELECT attname AS name, format_type(atttypid, atttypmod) AS type
FROM pg_attribute
WHERE attrelid = to_regclass(%(relation)s) AND attnum > 0 AND NOT attisdropped
  AND attname <> '_build'
ORDER BY attnum;

-- name: dependents
-- The views that read a view.
SELECT DISTINCT dependent.oid::regclass::text AS name
FROM pg_depend
JOIN pg_rewrite ON pg_rewrite.oid = pg_depend.objid
JOIN pg_class AS dependent ON dependent.oid = pg_rewrite.ev_class
WHERE pg_depend.refobjid = to_regclass(%(relation)s) AND dependent.oid <> pg_depend.refobjid
ORDER BY name;

-- name: builds_of
-- A build and every build that it read, by way of others too.
WITH RECURSIVE used AS (
    SELECT build, builds FROM gristmill.builds WHERE build = %(build)s
    UNION
    SELECT source.build, source.builds
    FROM used JOIN gristmill.builds AS source ON source.build = ANY (used.builds)
)
SELECT build FROM used ORDER BY build;

-- name: lineage
-- Every load that a build was made of, through the builds it read.
WITH RECURSIVE used AS (
    SELECT build, loads, builds FROM gristmill.builds WHERE build = %(build)s
    UNION
    SELECT source.build, source.loads, source.builds
    FROM used JOIN gristmill.builds AS source ON source.build = ANY (used.builds)
)
SELECT DISTINCT loads.load, loads.table_name, loads.period, loads.file, loads.etag
FROM used JOIN gristmill.loads ON loads.load = ANY (used.loads)
ORDER BY loads.load;

-- name: relations_read
-- The tables and views that a view reads, but PostgreSQL's own catalog.
SELECT DISTINCT read.oid::regclass::text AS name
FROM pg_rewrite
JOIN pg_depend ON pg_depend.classid = 'pg_rewrite'::regclass AND pg_depend.objid = pg_rewrite.oid
JOIN pg_class AS read ON pg_depend.refclassid = 'pg_class'::regclass AND read.oid = pg_depend.refobjid
WHERE pg_rewrite.ev_class = to_regclass(%(relation)s) AND read.oid <> pg_rewrite.ev_class
ORDER BY name;

-- name: functions_called
-- Which of these functions of PostgreSQL's own a view calls: it records no dependency on them.
SELECT DISTINCT pg_proc.proname AS name
FROM pg_rewrite
JOIN pg_proc ON pg_rewrite.ev_action::text LIKE '%%:funcid ' || pg_proc.oid || ' %%'
WHERE pg_rewrite.ev_class = to_regclass(%(relation)s)
  AND pg_proc.pronamespace = 'pg_catalog'::regnamespace
  AND pg_proc.proname = ANY (%(names)s)
ORDER BY name;
