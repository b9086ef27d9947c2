"""One-line bugs of the engine, and the machine that shows that each of them is found: who judges the judge.

A *mutant* is data (``mutant``, and all of them in ``table``): what it breaks, and one line of a module as it is and as it would be. Nothing
in the engine knows of it: the source is changed while it is imported (``patch``). A mutant is *hunted* (``hunt``) with the schedules of
the ring that ought to find it (``rings``) until one of them shows that something is wrong. Seeds that have done so are kept beside the
tests (``saved``), which repeat them.

    python -m exoflow.testing.mutants --all --jobs 2 --record       a campaign, and the table of how many schedules each took
    python -m exoflow.testing.mutants --mutant async_counts_at_once
"""
