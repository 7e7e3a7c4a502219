-- name: prediction
-- One answer that was given.
SELECT prediction_id, entity, features, probability, label, model_version, predicted_at, latency_ms
FROM gristmill.predictions
WHERE prediction_id = %(prediction_id)s;

-- name: build_then
-- The build that was shown at a moment; of a scoring, the one that it says it read.
SELECT coalesce(
    (SELECT build FROM gristmill.scores
     WHERE model_version = %(model_version)s AND scored_at = %(moment)s
     ORDER BY score DESC LIMIT 1),
    (SELECT build FROM gristmill.builds
     WHERE name = %(name)s AND built_at + make_interval(secs => seconds) <= %(moment)s
     ORDER BY build DESC LIMIT 1)
);

-- name: build_now
-- The build that is shown now.
SELECT build FROM gristmill.current_builds WHERE name = %(name)s ORDER BY build DESC LIMIT 1;

-- name: builds
-- What the ledger says of some builds.
SELECT build, name, period, loads, builds, as_of, rows, built_at, dropped_at,
       build IN (SELECT build FROM gristmill.current_builds) AS is_current
FROM gristmill.builds
WHERE build = ANY (%(builds)s)
ORDER BY build;

-- name: loads
-- What the ledger says of some loads, and which load is shown of their period now.
SELECT loads.load, loads.table_name, loads.period, loads.file, loads.etag, loads.loaded_at,
       loads.undone_at, loads.dropped_at, current_loads.load AS shown
FROM gristmill.loads
LEFT JOIN gristmill.current_loads USING (table_name, period)
WHERE loads.load = ANY (%(loads)s)
ORDER BY min(loads.load) OVER (PARTITION BY loads.table_name), loads.period, loads.load;

-- name: having
-- Which of these relations have which of these columns.
SELECT relname AS relation, attname AS column
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relnamespace = to_regnamespace(%(schema)s) AND relname = ANY (%(relations)s)
  AND attname = ANY (%(columns)s) AND attnum > 0 AND NOT attisdropped;
