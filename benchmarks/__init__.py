"""Benchmarks: ``python -m benchmarks`` (or ``make bench``) measures the machine's limits and the engine in one run."""
