-- name: lock
-- One process scores at a time; released with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('score', 0));

-- name: scored
-- The last scoring of a build by a version.
SELECT model_version, build, entities, positives, seconds, scored_at
FROM gristmill.scores
WHERE model_version = %(model_version)s AND build = %(build)s
ORDER BY score DESC
LIMIT 1;

-- name: copy_predictions
-- Takes predictions in, a line each.
COPY gristmill.predictions (prediction_id, entity, features, probability, label, model_version,
                            predicted_at, latency_ms)
FROM STDIN (FORMAT csv);

-- name: record
-- Puts a scoring on record.
INSERT INTO gristmill.scores (model_version, build, entities, positives, seconds, scored_at)
VALUES (%(model_version)s, %(build)s, %(entities)s, %(positives)s, %(seconds)s, %(scored_at)s);
