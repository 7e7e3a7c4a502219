-- name: insert_predictions
-- Adds those predictions that are not there yet; the arrays run in parallel, one place for each.
INSERT INTO gristmill.predictions (prediction_id, entity, features, probability, label,
                                   model_version, predicted_at, latency_ms)
SELECT prediction_id, entity, features, probability, label, model_version,
       timestamptz 'epoch' + microseconds * interval '1 microsecond', latency_ms
FROM unnest(%(prediction_id)s::uuid[], %(entity)s::text[], %(features)s::jsonb[],
            %(probability)s::double precision[], %(label)s::integer[], %(model_version)s::text[],
            %(predicted_at)s::bigint[], %(latency_ms)s::double precision[])
     AS given (prediction_id, entity, features, probability, label, model_version,
               microseconds, latency_ms)
ON CONFLICT (prediction_id) DO NOTHING;
