"""Prices: what an hour of an instance costs, and what that makes of a token.

Belongs here: price points with date and source, declared prices, the formulas of cost. Does not belong here:
the join of prices with results (``sql/marts``), budgets. There is no default price anywhere: a missing one is
a row with its reason.

Where a change goes, in the order of a refresh:

* who rents, and what is asked of them: ``providers`` (the registry), ``amazon``, ``lambda_cloud``, ``runpod``,
  ``sources`` (the questions); their packaged facts: ``packaged``, ``catalog``
* asking AWS and reading its answers: ``aws``; the answers word for word: ``raw``
* whether an answer is believed: ``answers`` (as a whole), ``sanity`` (a price by itself and since the day before),
  ``plausible`` (a price against the same machine's elsewhere)
* which prices hold on a day: ``merge``; all of it in order: ``refresh``
* one price: ``points``; a day's table: ``snapshot``; reading days back: ``store``
* which of the known prices answers a question: ``offers``
* formulas: ``cost`` (tokens and requests), ``fleet`` (hours, months, replicas), ``mix_fit`` (several workloads)
"""
