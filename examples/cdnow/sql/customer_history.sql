-- What was known of each customer on the first of each month: only purchases before that day count.
WITH months AS (
    SELECT generate_series(
        date_trunc('month', min(sales.date)::timestamp) + interval '1 month',
        date_trunc('month', max(sales.date)::timestamp) + interval '1 month',
        interval '1 month'
    )::date AS valid_from
    FROM sales
),
purchases AS (
    SELECT
        months.valid_from,
        sales.*,
        sales.date >= months.valid_from - 30 AS in_last_30_days,
        sales.date >= months.valid_from - 90 AS in_last_90_days
    FROM months
    JOIN sales ON sales.date < months.valid_from
)
SELECT
    customer_id,
    valid_from,
    valid_from - max(date)                                          AS recency_days,
    valid_from - min(date)                                          AS tenure_days,
    count(*)                                                        AS frequency,
    sum(money)                                                      AS money,
    coalesce(sum(cds) FILTER (WHERE in_last_30_days), 0)::bigint    AS cds_last_30_days,
    coalesce(sum(cds) FILTER (WHERE in_last_90_days), 0)::bigint    AS cds_last_90_days,
    coalesce(sum(money) FILTER (WHERE in_last_30_days), 0)          AS money_last_30_days,
    coalesce(sum(money) FILTER (WHERE in_last_90_days), 0)          AS money_last_90_days
FROM purchases
GROUP BY customer_id, valid_from
