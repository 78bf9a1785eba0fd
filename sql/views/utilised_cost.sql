-- What a step's tokens and requests cost when the server is not busy all the hours it is paid for: cost / utilisation.
-- utilisation = requests served / (capacity in requests a second x billed hours x 3600); shown for 1.0, 0.6 and 0.3.
with shares as (
  select cast(share as double) as share from (values (1.0), (0.6), (0.3)) as given (share)
)
select
  c.run_id, c.step_index, c.cell_id, c.model, c.instance_type, c.workload_id, c.origin, c.evidence_level, c.is_current,
  c.provider, c.region, c.zone, c.tier, c.payment_option, c.offering_class, c.price_point_id,
  s.share as utilisation,
  c.usd_per_request / nullif(s.share, 0.0) as usd_per_request,
  c.usd_per_1m_total / nullif(s.share, 0.0) as usd_per_1m_total,
  c.usd_per_1m_input_full_hour / nullif(s.share, 0.0) as usd_per_1m_input_full_hour,
  c.usd_per_1m_output_full_hour / nullif(s.share, 0.0) as usd_per_1m_output_full_hour,
  c.usd_per_1m_input_split / nullif(s.share, 0.0) as usd_per_1m_input_split,
  c.usd_per_1m_output_split / nullif(s.share, 0.0) as usd_per_1m_output_split,
  c.price_as_of
from cost_per_token as c
cross join shares as s
where c.missing_reason is null
