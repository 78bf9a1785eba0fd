"""Fixtures of the lake's tests."""

from tests.support.lakes import lake, local_lake, s3_environment, s3_lake, s3_server

__all__ = ["lake", "local_lake", "s3_environment", "s3_lake", "s3_server"]
