"""The scenarios. Importing this package registers them all."""

from . import groups, publishing, retries, sharing, topics, transactions  # noqa: F401
