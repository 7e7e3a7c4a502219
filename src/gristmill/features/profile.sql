-- name: seed
-- The same sample of the same rows every time.
SELECT setseed(0.25);

-- name: reject_counts
-- How many rows the newest load of each period of a table refused, by rule.
SELECT counted.rule, sum(counted.count::bigint)::bigint AS rows
FROM (
    SELECT DISTINCT ON (period) rules FROM gristmill.loads
    WHERE table_name = %(table)s
    ORDER BY period, load DESC
) AS newest, jsonb_each_text(newest.rules) AS counted (rule, count)
GROUP BY counted.rule
ORDER BY rows DESC, counted.rule;
