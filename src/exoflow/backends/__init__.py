"""Executors and Refs over systems of others, one folder each. Nothing here is imported before somebody asks for it by name."""
