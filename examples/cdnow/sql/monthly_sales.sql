-- What the shop sold in one month. Here `sales` is that month alone.
SELECT
    date_trunc('month', sales.date::timestamp)::date AS sale_month,
    count(DISTINCT sales.customer_id)                AS customers,
    count(*)                                         AS orders,
    sum(sales.cds)::bigint                           AS cds,
    sum(sales.money)                                 AS money
FROM sales
GROUP BY 1
