-- What a request, an input and an output token take of a deployment's capacity, fitted over at least four workloads.
-- Each mix is a cell of the same deployment at its reporting point, if the run shows that this is its limit (is_bounded),
-- and only cells of one origin are fitted together, those of evidence level standard or above apart from the others: alpha x input/s + beta x output/s + gamma x
-- requests/s = 1, the whole capacity; the same as 1/X = alpha N_in + beta N_out + gamma. Least squares of the relative
-- residuals with alpha, beta, gamma >= 0: all three if none is negative, else the best of the smaller sets.
-- Refused with its reason: fewer than four mixes, mixes too alike to tell the three apart, a residual over 10 %.
-- r2 is that of 1/X, null where all mixes have the same. preferred marks the basis to use: at_slo if it has a fit, else
-- floor. The sums are windows, not joins, so that PostgreSQL has nothing to misjudge.
with mixes as (
  select
    deployment, basis, origin,
    case when evidence_level in ('standard', 'publication') then 'standard' else 'below_standard' end as evidence,
    capacity_requests_per_s as x, input_tokens_per_s as a, output_tokens_per_s as b
  from reporting_points
  where is_bounded and input_tokens_per_s > 0.0 and output_tokens_per_s > 0.0
),
sums as (
  select
    *,
    count(*) over (partition by deployment, basis, origin, evidence) as mixes,
    sqrt(sum(a * a) over (partition by deployment, basis, origin, evidence)) as na,
    sqrt(sum(b * b) over (partition by deployment, basis, origin, evidence)) as nb,
    sqrt(sum(x * x) over (partition by deployment, basis, origin, evidence)) as nx,
    sum(a * b) over (partition by deployment, basis, origin, evidence) as ab,
    sum(a * x) over (partition by deployment, basis, origin, evidence) as ax,
    sum(b * x) over (partition by deployment, basis, origin, evidence) as bx,
    sum(a) over (partition by deployment, basis, origin, evidence) as sa,
    sum(b) over (partition by deployment, basis, origin, evidence) as sb,
    sum(x) over (partition by deployment, basis, origin, evidence) as sx,
    avg(1.0 / nullif(x, 0.0)) over (partition by deployment, basis, origin, evidence) as mean_y
  from mixes
),
-- Every column scaled to length 1: p, q, s are cosines, and d is 0 where the three cannot be told apart.
scaled as (
  select
    *,
    ab / nullif(na * nb, 0.0) as p, ax / nullif(na * nx, 0.0) as q, bx / nullif(nb * nx, 0.0) as s,
    sa / nullif(na, 0.0) as ra, sb / nullif(nb, 0.0) as rb, sx / nullif(nx, 0.0) as rx
  from sums
),
solvable as (
  select *, 1.0 + 2.0 * p * q * s - p * p - q * q - s * s as d from scaled
),
-- Which of the three may be above zero: all, two or one of them, in the order of preference where they fit alike.
sets as (
  select * from (values (1), (2), (3), (4), (5), (6), (7)) as given (which)
),
candidates as (
  select
    v.*, t.which,
    case t.which
      when 1 then ((1.0 - s * s) * ra + (q * s - p) * rb + (p * s - q) * rx) / nullif(d, 0.0)
      when 2 then (ra - p * rb) / nullif(1.0 - p * p, 0.0)
      when 3 then (ra - q * rx) / nullif(1.0 - q * q, 0.0)
      when 5 then ra
      else 0.0
    end / nullif(na, 0.0) as alpha,
    case t.which
      when 1 then ((q * s - p) * ra + (1.0 - q * q) * rb + (p * q - s) * rx) / nullif(d, 0.0)
      when 2 then (rb - p * ra) / nullif(1.0 - p * p, 0.0)
      when 4 then (rb - s * rx) / nullif(1.0 - s * s, 0.0)
      when 6 then rb
      else 0.0
    end / nullif(nb, 0.0) as beta,
    case t.which
      when 1 then ((p * s - q) * ra + (p * q - s) * rb + (1.0 - p * p) * rx) / nullif(d, 0.0)
      when 3 then (rx - q * ra) / nullif(1.0 - q * q, 0.0)
      when 4 then (rx - s * rb) / nullif(1.0 - s * s, 0.0)
      when 7 then rx
      else 0.0
    end / nullif(nx, 0.0) as gamma
  from solvable as v
  cross join sets as t
),
judged as (
  select
    deployment, basis, origin, evidence, which, mixes, d, alpha, beta, gamma,
    sum((alpha * a + beta * b + gamma * x - 1.0) * (alpha * a + beta * b + gamma * x - 1.0)) as rss,
    max(abs(alpha * a + beta * b + gamma * x - 1.0)) as worst_residual,
    sum(
      (alpha * a + beta * b + gamma * x - 1.0) * (alpha * a + beta * b + gamma * x - 1.0) / nullif(x * x, 0.0)
    ) as left_over,
    sum((1.0 / nullif(x, 0.0) - mean_y) * (1.0 / nullif(x, 0.0) - mean_y)) as spread,
    sum(mean_y * mean_y) as level
  from candidates
  group by deployment, basis, origin, evidence, which, mixes, d, alpha, beta, gamma
),
ordered as (
  select
    *,
    coalesce(alpha >= 0.0 and beta >= 0.0 and gamma >= 0.0, false) as feasible,
    row_number() over (
      partition by deployment, basis, origin, evidence
      order by
        case when coalesce(alpha >= 0.0 and beta >= 0.0 and gamma >= 0.0, false) then 0 else 1 end,
        case when which = 1 then 0 else 1 end, rss nulls last, which
    ) as place
  from judged
),
reasoned as (
  select
    deployment, basis, origin, evidence, mixes, alpha, beta, gamma, worst_residual, mixes >= 4 and d > 0.00001 and feasible as fitted,
    case when spread > 0.000000000001 * level then 1.0 - left_over / nullif(spread, 0.0) end as r2,
    case
      when mixes < 4 then concat(cast(mixes as varchar), ' of the 4 workloads that a fit needs were measured to their limit')
      when d <= 0.00001 or not feasible
        then 'the workloads are too alike to tell input, output and requests apart'
      when worst_residual > 0.1 then 'the worst residual of the fit is over 10 %'
    end as missing_reason
  from ordered
  where place = 1
)
select
  deployment, basis, origin, evidence, mixes,
  case when missing_reason is null then alpha end as input_token_s,
  case when missing_reason is null then beta end as output_token_s,
  case when missing_reason is null then gamma end as request_s,
  case when fitted then r2 end as r2,
  case when fitted then worst_residual end as worst_residual,
  missing_reason,
  row_number() over (
    partition by deployment, origin, evidence order by case when missing_reason is null then 0 else 1 end, basis
  ) = 1 as preferred
from reasoned
order by deployment, origin, evidence, basis
