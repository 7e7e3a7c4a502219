-- name: superseded_loads
-- Loads that no view shows, but for the newest ones before each current one and those in use.
SELECT load AS number, table_name AS name
FROM (
    SELECT load, table_name, row_number() OVER (
        PARTITION BY table_name, period ORDER BY undone_at IS NOT NULL, load DESC
    ) AS age
    FROM gristmill.loads
    WHERE status = 'loaded' AND dropped_at IS NULL
) AS aged
WHERE age > %(kept)s AND NOT load = ANY (%(in_use)s)
  AND load NOT IN (SELECT load FROM gristmill.current_loads)
ORDER BY load;

-- name: drop_load
-- Remembers that only the ledger row of a load is left.
UPDATE gristmill.loads SET dropped_at = now() WHERE load = %(number)s;

-- name: superseded_builds
-- Builds that no view shows, but for the newest ones before each current one and those in use.
SELECT build AS number, name
FROM (
    SELECT build, name, row_number() OVER (PARTITION BY name, period ORDER BY build DESC) AS age
    FROM gristmill.builds
    WHERE dropped_at IS NULL
) AS aged
WHERE age > %(kept)s AND NOT build = ANY (%(in_use)s)
  AND build NOT IN (SELECT build FROM gristmill.current_builds)
ORDER BY build;

-- name: drop_build
-- Remembers that only the ledger row of a build is left.
UPDATE gristmill.builds SET dropped_at = now() WHERE build = %(number)s;

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
