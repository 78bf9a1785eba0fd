"""Tests of the report site: what it says, that nothing breaks out of it, how it behaves in a browser."""
