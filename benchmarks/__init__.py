"""Benchmarks: ``make bench`` measures, in one run, what the machine allows, this engine, and (``PEERS=1``) its rivals.

Each is a *contestant*: a program that is asked for one *group* of figures (P1, P2, ...) in a process of its own and prints its readings.

``reading`` what a contestant must do (imports nothing but the standard library, since rivals run elsewhere) · ``limits`` the machine ·
``engine`` this engine · ``peers`` the rivals and their environments · ``rounds`` asks all of them in turn, round after round ·
``flushes`` counts flushes · ``record`` what came of it · ``goals`` what it is held against · ``page`` and ``charts`` show it.

``make counts`` is something else: how much work hot operations do, whatever the machine's mood (``counts``, ``operations``).
"""
