"""The scenarios. Importing this package registers them all."""

from . import faults, groups, publishing, retries, sharing, topics, transactions  # noqa: F401
