"""Tests of what ``infra/`` holds: that it parses, validates, fits the launcher, and loads."""
