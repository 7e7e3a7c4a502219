-- What each store sold in one month. Here `sales` is that month alone.
SELECT
    sales.store_idx,
    stores.location,
    date_trunc('month', sales.date::timestamp)::date AS sale_month,
    sum(sales.value)                                 AS value
FROM sales
LEFT JOIN stores ON stores.idx = sales.store_idx
GROUP BY 1, 2, 3
