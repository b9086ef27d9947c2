"""The kit for users and for authors of backends: what any Executor or Store must pass, and how to make a workflow crash on purpose."""
