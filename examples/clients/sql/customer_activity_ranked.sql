-- The activity of each client, the latest first: rank 1 is what was last known.
SELECT
    idx,
    valid_from,
    valid_to,
    scd_a,
    scd_b,
    row_number() OVER (PARTITION BY idx ORDER BY valid_from DESC) AS rank
FROM customer_activity
