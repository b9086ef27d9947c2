"""References to data that lives elsewhere: what users pass instead of the data, and how the engine keeps, restores and misses it.

As long as no kind is imported, no value is searched for Refs.
"""
