-- name: lock
-- One process at a time loads a period of a table; released with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('load ' || %(table)s || ' ' || %(period)s, 0));

-- name: lock_shape
-- Nobody else gives the table another shape or loads it meanwhile; released with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('shape ' || %(table)s, 0));

-- name: share_shape
-- Nobody gives the table another shape meanwhile; released with the transaction.
SELECT pg_advisory_xact_lock_shared(hashtextextended('shape ' || %(table)s, 0));

-- name: current
-- What is in: the current load of each of a table's periods.
SELECT loads.load, loads.period, loads.file, loads.etag, loads.contract, loads.rows,
       loads.rejected, loads.loaded_at
FROM gristmill.current_loads JOIN gristmill.loads USING (load)
WHERE loads.table_name = %(table)s
ORDER BY loads.period;

-- name: undone
-- What was undone and is not to be taken in again by itself: it was not asked for again since.
SELECT undone.period, undone.file, undone.etag, undone.contract FROM gristmill.loads AS undone
WHERE undone.table_name = %(table)s AND undone.undone_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM gristmill.loads AS again
    WHERE again.load > undone.load AND again.undone_at IS NULL AND again.status = 'loaded'
      AND (again.table_name, again.period, again.file, again.etag, again.contract)
        = (undone.table_name, undone.period, undone.file, undone.etag, undone.contract)
);

-- name: before
-- The load that was current before another one of its period.
SELECT load, contract, dropped_at IS NULL AS is_kept FROM gristmill.loads
WHERE table_name = %(table)s AND period = %(period)s AND load < %(load)s
  AND status = 'loaded' AND undone_at IS NULL
ORDER BY load DESC
LIMIT 1;

-- name: undo
-- Remembers that a load was undone.
UPDATE gristmill.loads SET undone_at = now() WHERE load = %(load)s;

-- name: forget_readers
-- A load that is current again has not been superseded.
UPDATE gristmill.loads SET readers = NULL WHERE load = %(load)s;

-- name: unmark
-- Takes the mark from a period.
DELETE FROM gristmill.current_loads WHERE table_name = %(table)s AND period = %(period)s;

-- name: users_of
-- The builds and model versions that were made of a load, by way of other builds too.
WITH RECURSIVE made AS (
    SELECT build, name, period FROM gristmill.builds WHERE %(load)s = ANY (loads)
    UNION
    SELECT builds.build, builds.name, builds.period
    FROM made JOIN gristmill.builds ON made.build = ANY (builds.builds)
)
SELECT made.build, made.name, made.period, versions.version
FROM made LEFT JOIN gristmill.model_versions AS versions USING (build)
ORDER BY made.build;

-- name: next_load
-- A number for a load that begins.
SELECT nextval(pg_get_serial_sequence('gristmill.loads', 'load'))::integer;

-- name: record
-- The ledger row of a load.
INSERT INTO gristmill.loads (load, table_name, period, file, etag, bytes, modified_at, contract,
                             status, rows, rejected, rules, seconds)
OVERRIDING SYSTEM VALUE
VALUES (%(load)s, %(table)s, %(period)s, %(file)s, %(etag)s, %(bytes)s, %(modified_at)s,
        %(contract)s, %(status)s, %(rows)s, %(rejected)s, %(rules)s, %(seconds)s);

-- name: hold
-- Held, past the commit, until others have been told of what is attached; but where all marks are
-- this transaction's the parent may be new, and nobody has listed its partitions before.
SELECT pg_advisory_lock(6018463, %(load)s) WHERE EXISTS (
    SELECT FROM gristmill.current_loads
    WHERE table_name = %(table)s AND xmin <> pg_current_xact_id()::xid
);

-- name: mark
-- Moves the mark that the view reads.
INSERT INTO gristmill.current_loads (table_name, period, load)
VALUES (%(table)s, %(period)s, %(load)s)
ON CONFLICT (table_name, period)
DO UPDATE SET previous = current_loads.load, load = excluded.load;

-- name: shape
-- A relation's columns as the catalog has them, Gristmill's own left out.
SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS not_null
FROM pg_attribute
WHERE attrelid = to_regclass(%(relation)s) AND attnum > 0 AND NOT attisdropped
  AND attname NOT IN ('_load', '_line')
ORDER BY attnum;

-- name: parent
-- The partitioned table that a table is attached to.
SELECT parent.relname AS name
FROM pg_inherits JOIN pg_class AS parent ON parent.oid = pg_inherits.inhparent
WHERE pg_inherits.inhrelid = to_regclass(%(relation)s);

-- name: dependents
-- The views that read a view.
SELECT DISTINCT dependent.oid::regclass::text AS name
FROM pg_depend
JOIN pg_rewrite ON pg_rewrite.oid = pg_depend.objid
JOIN pg_class AS dependent ON dependent.oid = pg_rewrite.ev_class
WHERE pg_depend.refobjid = to_regclass(%(relation)s) AND dependent.oid <> pg_depend.refobjid
ORDER BY name;

-- name: last_refusals
-- For each period of a table, its newest load where that was refused.
SELECT newest.load, newest.period, newest.file, newest.etag, newest.contract, newest.rows,
       newest.rejected, newest.rules ? 'reference' AS by_reference, newest.loaded_at
FROM (
    SELECT DISTINCT ON (period) * FROM gristmill.loads
    WHERE table_name = %(table)s
    ORDER BY period, load DESC
) AS newest
WHERE newest.status = 'refused'
ORDER BY newest.period;

-- name: last_loads
-- Of each period the newest load; where it was undone, the one that is shown.
SELECT DISTINCT ON (table_name, period) CASE WHEN undone_at IS NULL THEN load ELSE (
    SELECT current.load FROM gristmill.current_loads AS current
    WHERE (current.table_name, current.period) = (loads.table_name, loads.period)
) END AS load
FROM gristmill.loads WHERE %(table)s::text IS NULL OR table_name = %(table)s
ORDER BY table_name, period, loads.load DESC;

-- name: reject_counts
-- How many rows some loads refused, by rule.
SELECT loads.table_name, loads.period, loads.status, counted.rule, counted.count::bigint
FROM gristmill.loads CROSS JOIN jsonb_each_text(loads.rules) AS counted (rule, count)
WHERE loads.load = ANY (%(loads)s::bigint[])
ORDER BY loads.table_name, loads.period, counted.rule;

-- name: rejects
-- What some loads refused, by line.
SELECT loads.table_name, loads.period, loads.status, rejects.file, rejects.line, rejects.rule,
       rejects.reason, rejects.raw
FROM gristmill.loads JOIN gristmill.rejects USING (load)
WHERE loads.load = ANY (%(loads)s::bigint[])
ORDER BY loads.table_name, loads.period, rejects.line;
