-- The average sale and the number of sales, store by month.
SELECT
    store_idx,
    date_trunc('month', date::timestamp)::date AS sale_month,
    avg(value)                                 AS average_sale,
    count(*)                                   AS number_of_sales
FROM sales
GROUP BY 1, 2
ORDER BY 1, 2
