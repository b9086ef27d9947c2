"""What a workflow is made of: names, annotations, retry policies, the graph. Data only; everything else in ``core`` builds on it."""
