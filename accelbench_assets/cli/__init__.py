"""The command line: ``accelbench``.

Belongs here: parsing and refusing flags, asking the domain packages, showing answers as table, JSON or CSV,
rendering the progress of the child process that orchestrates a run, and the exit codes (0 done, 1 failed or
void, 2 wrong usage, 130 interrupted). Results go to stdout, everything else to stderr.
Does not belong here: Dagster (a child process runs it), any figure or rule (``bench``, ``sqlkit``), any
launching. Heavy modules are imported inside the functions that need them: ``accelbench --help`` must answer
at once.
"""
