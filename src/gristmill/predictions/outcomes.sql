-- name: given_rows
-- The outcomes of an array of JSON objects.
SELECT DISTINCT entity, outcome, observed_at
FROM json_to_recordset(%(records)s::json)
     AS given (entity text, outcome integer, observed_at timestamptz);

-- name: make_given
-- A table for the outcomes of a file, gone with the transaction.
CREATE TEMPORARY TABLE given_outcomes (
    line        bigint NOT NULL,
    entity      text NOT NULL,
    outcome     integer NOT NULL,
    observed_at timestamptz NOT NULL
) ON COMMIT DROP;

-- name: copy_given
-- Takes a file's outcomes in.
COPY pg_temp.given_outcomes (line, entity, outcome, observed_at) FROM STDIN;

-- name: contradictions
-- Lines that say otherwise than an earlier one of the same entity and time.
SELECT line FROM (
    SELECT line, outcome,
           first_value(outcome) OVER (PARTITION BY entity, observed_at ORDER BY line) AS first
    FROM pg_temp.given_outcomes
) AS compared
WHERE outcome <> first
ORDER BY line
LIMIT %(limit)s;

-- name: given_file
-- The outcomes of the file that was taken in.
SELECT DISTINCT entity, outcome, observed_at FROM pg_temp.given_outcomes;

-- name: record_outcomes
-- Adds what is new and corrects what was said otherwise before; in one order, so that two that run
-- at once do not wait for each other in a circle. A row that was there has an xmax.
WITH given AS (
    {given}
), written AS (
    INSERT INTO gristmill.outcomes AS present (entity, outcome, observed_at)
    SELECT entity, outcome, observed_at FROM given ORDER BY entity, observed_at
    ON CONFLICT (entity, observed_at) DO UPDATE SET outcome = excluded.outcome
    WHERE present.outcome <> excluded.outcome
    RETURNING xmax::text = '0' AS is_new
)
SELECT count(*) FILTER (WHERE is_new) AS added,
       count(*) FILTER (WHERE NOT is_new) AS corrected,
       (SELECT count(*) FROM given) - count(*) AS known
FROM written;
