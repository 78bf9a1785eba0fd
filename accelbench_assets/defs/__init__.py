"""Dagster definitions: the only package that imports Dagster (with ``accelbench_assets.definitions``).

Belongs here: assets, checks, conditions, schedules, sensors and resources as thin shells: an asset body parses its
partition key, calls one function of the domain and returns metadata.
Does not belong here: any rule about measuring, costing, publishing or rendering.
"""
