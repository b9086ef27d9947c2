"""Simulation: the real core, runtime, client, commit path and lease code of one or several engines, in a world that is made of a seed.

Time, threads, store, blobs, executors and machines are simulated; nothing else is. ``scheduler`` runs simulated threads, ``surroundings``
is what an engine lives on, ``store`` and ``executor`` are the far ends, ``acting`` is what tasks do, ``scenario`` and ``generate`` say
what happens, ``clients`` and ``driver`` make it happen, and ``exoflow.testing.oracle`` judges.
"""
