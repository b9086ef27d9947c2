"""ExoFlow: exactly-once DAGs, where recovery is a property of each task."""

__version__ = "0.1.0"
