-- name: lock
-- One judging at a time: each must know of all before it.
SELECT pg_advisory_xact_lock(hashtextextended('attempts', 0));

-- name: history
-- Every attempt on the holdout, the oldest first.
SELECT generation, answers, champion, chance_spent FROM gristmill.attempts ORDER BY attempt;

-- name: began_with
-- The entities that the last generation of the holdout began with, and its youngest label's moment.
SELECT entities, (evidence ->> 'known_until')::bigint AS known_until
FROM gristmill.holdout_scores JOIN gristmill.attempts USING (attempt)
WHERE attempt = (
    SELECT min(attempt) FROM gristmill.attempts
    WHERE generation = (SELECT max(generation) FROM gristmill.attempts)
);

-- name: record
-- Puts an attempt on record, before anybody is told what came of it.
INSERT INTO gristmill.attempts
    (generation, answers, champion, chance_spent, rows, decision, reasons, evidence)
VALUES
    (%(generation)s, %(answers)s, %(champion)s, %(chance_spent)s, %(rows)s, %(decision)s,
     %(reasons)s, %(evidence)s)
RETURNING attempt;

-- name: keep_scores
-- Keeps what an attempt said of each entity.
INSERT INTO gristmill.holdout_scores (attempt, entities, scores)
VALUES (%(attempt)s, %(entities)s, %(scores)s);

-- name: forget_scores
-- Lets go of scores that nothing will ask for: neither promoted, nor among the last, nor a first.
DELETE FROM gristmill.holdout_scores
WHERE attempt <= %(attempt)s - %(kept)s
  AND attempt NOT IN (SELECT min(attempt) FROM gristmill.attempts GROUP BY generation)
  AND NOT EXISTS (
      SELECT FROM gristmill.promotions JOIN gristmill.model_versions USING (version)
      WHERE (lineage ->> 'attempt')::bigint = holdout_scores.attempt
  );

-- name: scores
-- What an attempt said of each entity.
SELECT entities, scores FROM gristmill.holdout_scores WHERE attempt = %(attempt)s;
