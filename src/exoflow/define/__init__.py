"""How a user writes a workflow: tasks (``task``), the DAG their calls build (``dag``), and what becomes of it (``plan``)."""
