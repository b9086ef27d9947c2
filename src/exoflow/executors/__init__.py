"""Where task code runs: the Executor seam (``base``) and what implements it."""
