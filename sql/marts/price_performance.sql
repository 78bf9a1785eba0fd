-- The ranking by USD per million output tokens within model and workload, for each region, tier and payment option.
-- The rule is the view "ranking": measured rows of evidence level standard or publication only, never void.
select * from ranking
order by model, workload_id, region, tier, payment_option nulls first, price_rank, cell_id
