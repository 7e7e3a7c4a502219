-- name: insert_predictions
-- Adds those predictions that are not there yet, from an array of JSON objects.
INSERT INTO gristmill.predictions (prediction_id, entity, features, probability, label,
                                   model_version, predicted_at, latency_ms)
SELECT prediction_id, entity, features, probability, label, model_version, predicted_at, latency_ms
FROM json_to_recordset(%(records)s::json)
     AS given (prediction_id uuid, entity text, features jsonb, probability double precision,
               label integer, model_version text, predicted_at timestamptz,
               latency_ms double precision)
ON CONFLICT (prediction_id) DO NOTHING;
