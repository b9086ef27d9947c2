"""The first ring of the proof (docs/adr/0013): the real core in a world that is made up entirely, so that a thousand schedules a second can
be tried on one processor.

``world`` carries out the commands of a machine in any order, breaks what can break, and keeps an ``outside`` that remembers effects;
``verdict`` says what must hold, ``situations`` what must have been met. What happens is a list of steps (``scenario``), chosen by
``schedules`` at random, from a file, or so that nothing goes wrong. ``settings`` makes a world of a seed, ``shrink`` the smallest scenario
of a world in which something is wrong. ``python -m exoflow.testing.machine`` tries seeds by the million.
"""
