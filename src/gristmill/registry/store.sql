-- name: lock
-- One process at a time registers or promotes.
SELECT pg_advisory_xact_lock(hashtextextended('registry', 0));

-- name: insert_version
-- The last act of registering: from here on the version exists.
INSERT INTO gristmill.model_versions
    (version, candidate, verdict, reasons, no_signal, evaluation, build, lineage, run_id, bundle,
     code_version, seed)
VALUES
    (%(version)s, %(candidate)s, %(verdict)s, %(reasons)s, %(no_signal)s, %(evaluation)s, %(build)s,
     %(lineage)s, %(run_id)s, %(bundle)s, %(code_version)s, %(seed)s);

-- name: last_version
-- The greatest version number given so far, or 0.
SELECT coalesce(max(version::bigint), 0) FROM gristmill.model_versions;

-- name: versions
-- Every version, the oldest first.
SELECT * FROM gristmill.model_versions ORDER BY version::bigint;

-- name: version
-- One version.
SELECT * FROM gristmill.model_versions WHERE version = %(version)s;

-- name: champion
-- The version of the last promotion.
SELECT model_versions.*
FROM gristmill.promotions
JOIN gristmill.model_versions USING (version)
ORDER BY promotion DESC
LIMIT 1;

-- name: promotions
-- Every change of champion, the oldest first.
SELECT version, promoted_at, by, why, rolled_back FROM gristmill.promotions ORDER BY promotion;

-- name: insert_promotion
-- Makes a version the champion.
INSERT INTO gristmill.promotions (version, by, why, rolled_back)
VALUES (%(version)s, %(by)s, %(why)s, %(rolled_back)s);
