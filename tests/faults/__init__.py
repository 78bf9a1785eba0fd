"""What goes wrong with a benchmark on Kubernetes, one thing at a time, and what must still hold afterwards.

``make test-faults`` runs the whole matrix and prints it as a table; ``make test`` runs a sample of it.
"""
