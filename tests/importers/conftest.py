"""A lake in a folder, from ``tests.support``."""

from tests.support.lakes import local_lake

__all__ = ["local_lake"]
