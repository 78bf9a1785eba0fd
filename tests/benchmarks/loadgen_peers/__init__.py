"""The load generator beside its peers, all against the ground-truth server, in one command.

Belongs here: building the peers' environments, the loads, what is measured of every client from outside, the
comparison of a client's figures with the server's own log, tables and verdicts.
Does not belong here: anything a user of the project imports; tests of the generator (``tests/loadgen``).
"""
