-- What a request, an input and an output token take of a deployment's capacity, fitted over at least four workloads.
-- Each mix is a cell of the same deployment at its reporting point, if the run shows that this is its limit
-- (is_bounded). Only cells of one origin are fitted together, those of evidence level standard or above apart from the
-- others: alpha x input/s + beta x output/s + gamma x requests/s = 1, the whole capacity; the same as
-- 1/X = alpha N_in + beta N_out + gamma. Least squares of the relative residuals with alpha, beta, gamma >= 0: all three
-- if none is negative, else the best of the smaller sets.
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
    count(*) over alike as mixes,
    sqrt(sum(a * a) over alike) as na, sqrt(sum(b * b) over alike) as nb, sqrt(sum(x * x) over alike) as nx,
    sum(a * b) over alike as ab, sum(a * x) over alike as ax, sum(b * x) over alike as bx,
    sum(a) over alike as sa, sum(b) over alike as sb, sum(x) over alike as sx,
    avg(1.0 / nullif(x, 0.0)) over alike as mean_y
  from mixes
  window alike as (partition by deployment, basis, origin, evidence)
),
-- Which of the three may be above zero: all, two or one of them, in the order of preference where they fit alike.
sets as (
  select * from (
    values (1, 1, 1, 1), (2, 1, 1, 0), (3, 1, 0, 1), (4, 0, 1, 1), (5, 1, 0, 0), (6, 0, 1, 0), (7, 0, 0, 1)
  ) as given (which, has_a, has_b, has_x)
),
-- Every column scaled to length 1: p, q, s are cosines. What a set leaves out has cosines and sums of 0, so that one
-- solution of three equations serves every set. d is least for the set of all three, 0 where they cannot be told apart.
scaled as (
  select
    m.*, t.*,
    t.has_a * t.has_b * m.ab / nullif(m.na * m.nb, 0.0) as p,
    t.has_a * t.has_x * m.ax / nullif(m.na * m.nx, 0.0) as q,
    t.has_b * t.has_x * m.bx / nullif(m.nb * m.nx, 0.0) as s,
    t.has_a * m.sa / nullif(m.na, 0.0) as ra, t.has_b * m.sb / nullif(m.nb, 0.0) as rb,
    t.has_x * m.sx / nullif(m.nx, 0.0) as rx
  from sums as m
  cross join sets as t
),
solvable as (
  select *, 1.0 + 2.0 * p * q * s - p * p - q * q - s * s as d from scaled
),
solved as (
  select
    *,
    ((1.0 - s * s) * ra + (q * s - p) * rb + (p * s - q) * rx) / nullif(d * na, 0.0) as alpha,
    ((q * s - p) * ra + (1.0 - q * q) * rb + (p * q - s) * rx) / nullif(d * nb, 0.0) as beta,
    ((p * s - q) * ra + (p * q - s) * rb + (1.0 - p * p) * rx) / nullif(d * nx, 0.0) as gamma
  from solvable
),
missed as (
  select *, alpha * a + beta * b + gamma * x - 1.0 as residual, 1.0 / nullif(x, 0.0) as y from solved
),
judged as (
  select
    deployment, basis, origin, evidence, which, mixes, d, alpha, beta, gamma,
    coalesce(alpha >= 0.0 and beta >= 0.0 and gamma >= 0.0, false) as feasible,
    sum(residual * residual) as rss,
    max(abs(residual)) as worst_residual,
    sum(residual * y * residual * y) as left_over,
    sum((y - mean_y) * (y - mean_y)) as spread,
    sum(mean_y * mean_y) as level
  from missed
  group by deployment, basis, origin, evidence, which, mixes, d, alpha, beta, gamma
),
ordered as (
  select
    *,
    min(d) over (partition by deployment, basis, origin, evidence) as d_of_all,
    row_number() over (
      partition by deployment, basis, origin, evidence
      order by
        case when feasible then 0 else 1 end, case when which = 1 then 0 else 1 end, rss nulls last, which
    ) as place
  from judged
),
reasoned as (
  select
    deployment, basis, origin, evidence, mixes, alpha, beta, gamma, worst_residual,
    mixes >= 4 and d_of_all > 0.00001 and feasible as fitted,
    case when spread > 0.000000000001 * level then 1.0 - left_over / nullif(spread, 0.0) end as r2,
    case
      when mixes < 4
        then concat(cast(mixes as varchar), ' of the 4 workloads that a fit needs were measured to their limit')
      when d_of_all <= 0.00001 or not feasible
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
