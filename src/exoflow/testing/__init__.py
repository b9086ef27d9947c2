"""The kit for users and for authors of backends: what any Executor or Store must pass (``executor_suite``, ``store_suite``,
``blob_suite``), and an outside world that remembers what tasks did to it, kills them on request, and judges what came of
it (``ledger``)."""
