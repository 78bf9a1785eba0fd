"""Budget: what a paid run may cost, decided before anything is started.

Belongs here: the estimate of a run's cost, the ledger of reservations and settlements in PostgreSQL, the caps.
Does not belong here: price lists (``pricing``), when a run reserves and settles (``bench``), cost per token
(``sql/marts``).
"""
