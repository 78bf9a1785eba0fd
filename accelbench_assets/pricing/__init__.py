"""Prices: what an hour of an instance costs, and what that makes of a token.

Belongs here: price points with date and source, declared prices, the formulas of cost. Does not belong here:
the join of prices with results (``sql/marts``), budgets. There is no default price anywhere: a missing one is
a row with its reason.
"""
