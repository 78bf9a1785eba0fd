"""Where engines run: the launcher protocol, its implementations, and what keeps their processes from
outliving a run.

Belongs here: value objects of a launch (``base``), the launchers (``local``, ``endpoint``), process
supervision (``supervise``, ``process``), host identity and run locks. The only package that may import
Kubernetes.
Does not belong here: how one engine is started and read (``engines``), measuring (``loadgen``), judging
(``bench``). This file imports nothing: the supervisor must start in some tens of milliseconds.
"""
