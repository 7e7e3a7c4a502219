-- name: superseded_loads
-- Loads that no view shows, not even until all are told of the next, with their age within their period: the newest has age 1.
SELECT load AS number, table_name AS name, age, readers
FROM (
    SELECT load, table_name, readers, row_number() OVER (
        PARTITION BY table_name, period ORDER BY undone_at IS NOT NULL, load DESC
    ) AS age
    FROM gristmill.loads
    WHERE status = 'loaded' AND dropped_at IS NULL
) AS aged
WHERE load NOT IN (SELECT load FROM gristmill.current_loads) AND load NOT IN (
    SELECT unnest(gristmill.shown_loads(table_name))
    FROM (SELECT DISTINCT table_name FROM gristmill.current_loads) AS shown
)
ORDER BY load;

-- name: remember_load_readers
-- The transactions that ran after a load was superseded, and may see it as current.
UPDATE gristmill.loads SET readers = %(readers)s WHERE load = %(number)s;

-- name: lock_load
-- Nobody else loads or undoes this name meanwhile; released with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('shape ' || %(name)s, 0));

-- name: is_free_load
-- Whether a load is still superseded, as it was when its readers were remembered.
SELECT EXISTS (
    SELECT FROM gristmill.loads
    WHERE load = %(number)s AND dropped_at IS NULL AND readers = %(readers)s::text[]
) AND NOT EXISTS (SELECT FROM gristmill.current_loads WHERE load = %(number)s);

-- name: drop_load
-- Remembers that only the ledger row of a load is left.
UPDATE gristmill.loads SET dropped_at = now() WHERE load = %(number)s;

-- name: superseded_builds
-- Builds that no view shows, not even until all are told of the next, with their age within their period: the newest has age 1.
SELECT build AS number, name, age, readers
FROM (
    SELECT build, name, readers,
           row_number() OVER (PARTITION BY name, period ORDER BY build DESC) AS age
    FROM gristmill.builds
    WHERE dropped_at IS NULL
) AS aged
WHERE build NOT IN (SELECT build FROM gristmill.current_builds) AND build NOT IN (
    SELECT unnest(gristmill.shown_builds(name))
    FROM (SELECT DISTINCT name FROM gristmill.current_builds) AS shown
)
ORDER BY build;

-- name: remember_build_readers
-- The transactions that ran after a build was superseded, and may see it as current.
UPDATE gristmill.builds SET readers = %(readers)s WHERE build = %(number)s;

-- name: lock_build
-- Nobody else builds this name meanwhile; released with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('build ' || %(name)s || ' ', 0));

-- name: is_free_build
-- Whether a build is still superseded, as it was when its readers were remembered.
SELECT EXISTS (
    SELECT FROM gristmill.builds
    WHERE build = %(number)s AND dropped_at IS NULL AND readers = %(readers)s::text[]
) AND NOT EXISTS (SELECT FROM gristmill.current_builds WHERE build = %(number)s);

-- name: drop_build
-- Remembers that only the ledger row of a build is left.
UPDATE gristmill.builds SET dropped_at = now() WHERE build = %(number)s;

-- name: running
-- Every transaction that runs now, but for this one.
SELECT coalesce(array_agg(DISTINCT virtualtransaction), '{}') FROM pg_locks
WHERE locktype = 'virtualxid' AND pid <> pg_backend_pid();

-- name: parent
-- The partitioned table that a table is attached to.
SELECT parent.relname AS name
FROM pg_inherits JOIN pg_class AS parent ON parent.oid = pg_inherits.inhparent
WHERE pg_inherits.inhrelid = to_regclass(%(relation)s);

-- name: empty_parents
-- The parents put aside by a changed contract that hold nothing any more.
SELECT relname AS name FROM pg_class
WHERE relnamespace = to_regnamespace(%(schema)s) AND relkind = 'p' AND relname ~ '_until_\d+$'
  AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = pg_class.oid);
