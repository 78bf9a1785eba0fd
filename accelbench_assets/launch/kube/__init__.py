"""Kubernetes as the launcher and the reaper need it, on plain JSON objects.

Belongs here: names and labels of a run's objects, the client with its retries, the Lease that says a run lives, the
reaper that removes what a dead one left, and how a pod's state is read.
Does not belong here: what is launched (``launch.manifests``, ``engines.images``), when (``launch.eks``), Dagster.
This file imports nothing: the official client costs a second and is imported where a cluster is really used.
"""
