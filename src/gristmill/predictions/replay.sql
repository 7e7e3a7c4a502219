-- name: latest
-- The latest predictions on record; their ids grow with time, so the key's index leads to them.
SELECT entity, features, probability, label, predicted_at
FROM gristmill.predictions
ORDER BY prediction_id DESC
LIMIT %(most)s;
