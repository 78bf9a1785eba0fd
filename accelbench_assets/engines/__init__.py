"""How to start, probe and read each inference engine.

Belongs here: one module per engine (its command, environment, health and metrics paths, version and effective
arguments), the registry, the weights that lie on this machine, and the environment of engines too big for
ours.
Does not belong here: processes, ports and deadlines (``launch``), load (``loadgen``).
"""
