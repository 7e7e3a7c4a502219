-- name: lock
-- One process at a time registers or promotes.
SELECT pg_advisory_xact_lock(hashtextextended('registry', 0));

-- name: insert_version
-- The last act of registering: from here on the version exists.
INSERT INTO gristmill.model_versions
    (version, candidate, verdict, reasons, no_signal, evaluation, build, lineage, run_id, bundle,
     bundle_digest, code_version, seed)
VALUES
    (%(version)s, %(candidate)s, %(verdict)s, %(reasons)s, %(no_signal)s, %(evaluation)s, %(build)s,
     %(lineage)s, %(run_id)s, %(bundle)s, %(bundle_digest)s, %(code_version)s, %(seed)s);

-- name: last_version
-- The greatest version number given so far, or 0.
SELECT coalesce(max(version::bigint), 0) FROM gristmill.model_versions;

-- name: versions
-- Every version, the oldest first.
SELECT version, candidate, verdict, reasons, no_signal, evaluation, build, lineage, run_id, bundle,
       bundle_digest, code_version, seed, registered_at
FROM gristmill.model_versions
ORDER BY version::bigint;

-- name: version
-- One version.
SELECT version, candidate, verdict, reasons, no_signal, evaluation, build, lineage, run_id, bundle,
       bundle_digest, code_version, seed, registered_at
FROM gristmill.model_versions
WHERE version = %(version)s;

-- name: champion
-- The version of the last promotion.
SELECT version, candidate, verdict, reasons, no_signal, evaluation, build, lineage, run_id, bundle,
       bundle_digest, code_version, seed, registered_at
FROM gristmill.promotions
JOIN gristmill.model_versions USING (version)
ORDER BY promotion DESC
LIMIT 1;

-- name: promotions
-- Every change of champion, the oldest first.
SELECT version, promoted_at, by, os_user, database_user, why, rolled_back
FROM gristmill.promotions
ORDER BY promotion;

-- name: compared
-- The champion that an attempt was compared with.
SELECT champion FROM gristmill.attempts WHERE attempt = %(attempt)s;

-- name: insert_promotion
-- Makes a version the champion; the database adds when, and by which of its users.
INSERT INTO gristmill.promotions (version, by, os_user, why, rolled_back)
VALUES (%(version)s, %(by)s, %(os_user)s, %(why)s, %(rolled_back)s);

-- name: mirror_exists
-- Whether MLflow has made its tables.
SELECT to_regclass('mlflow.runs') IS NOT NULL
   AND to_regclass('mlflow.model_versions') IS NOT NULL
   AND to_regclass('mlflow.registered_model_aliases') IS NOT NULL;

-- name: mirrored_champion
-- The run that MLflow's alias points at.
SELECT model_versions.run_id
FROM mlflow.registered_model_aliases AS aliases
JOIN mlflow.model_versions USING (name, version)
WHERE aliases.name = %(name)s AND aliases.alias = %(alias)s;

-- name: mirrored_runs
-- Which of these runs MLflow still shows.
SELECT run_uuid AS run_id FROM mlflow.runs
WHERE run_uuid = ANY (%(run_ids)s) AND lifecycle_stage = 'active';

-- name: dropped
-- The builds of these versions whose rows, or the rows of a load they were made of, are gone.
WITH RECURSIVE used AS (
    SELECT version, build FROM gristmill.model_versions WHERE version = ANY (%(versions)s)
    UNION
    SELECT used.version, source
    FROM used JOIN gristmill.builds USING (build), unnest(builds.builds) AS source
)
SELECT used.version,
       count(DISTINCT builds.build) FILTER (WHERE builds.dropped_at IS NOT NULL) AS builds,
       count(DISTINCT loads.load) FILTER (WHERE loads.dropped_at IS NOT NULL) AS loads,
       least(min(builds.dropped_at), min(loads.dropped_at)) AS since
FROM used
JOIN gristmill.builds USING (build)
LEFT JOIN gristmill.loads ON loads.load = ANY (builds.loads)
GROUP BY used.version
HAVING least(min(builds.dropped_at), min(loads.dropped_at)) IS NOT NULL
ORDER BY used.version::bigint;

-- name: answered_without_record
-- The versions that have answered and are not on record; walks the index from one to the next.
WITH RECURSIVE answered AS (
    (SELECT model_version FROM gristmill.predictions ORDER BY model_version LIMIT 1)
    UNION ALL
    SELECT (SELECT predictions.model_version FROM gristmill.predictions
            WHERE predictions.model_version > answered.model_version
            ORDER BY predictions.model_version LIMIT 1)
    FROM answered
    WHERE answered.model_version IS NOT NULL
)
SELECT answered.model_version AS version,
       (SELECT max(predicted_at) FROM gristmill.predictions
        WHERE predictions.model_version = answered.model_version) AS last
FROM answered
WHERE answered.model_version IS NOT NULL
  AND answered.model_version NOT IN (SELECT version FROM gristmill.model_versions);

-- name: answered
-- When a version answered first and last.
SELECT min(predicted_at) AS first, max(predicted_at) AS last FROM gristmill.predictions
WHERE model_version = %(version)s;
