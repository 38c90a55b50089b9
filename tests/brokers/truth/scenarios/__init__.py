"""The scenarios. Importing this package registers them all."""

from . import connections, dead_letters, edges, endings, foreign, mayhem, publishing, queues, settling, shapes, standby  # noqa: F401
