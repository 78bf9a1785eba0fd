"""Prices asked of AWS: price lists, spot history, capacity blocks, Savings Plans.

Belongs here: requests to AWS and the reading of its answers into price points. ``boto3`` is imported when something is
asked, not before. Does not belong here: which prices hold in the end (``pricing.merge``), the lake.
"""
