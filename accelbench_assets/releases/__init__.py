"""What is new in the world that a result depends on, and what follows from it.

Belongs here: looking up vLLM's releases, image digests, Neuron SDKs and model revisions, each behind one function;
the cursor that remembers what was seen; the pure decision which cells to add and which runs to ask for, within caps.
Does not belong here: sensors (``defs``), registering cells (``lake``), launching (``launch``), what a run costs
(``budget``).
"""
