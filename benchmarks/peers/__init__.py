"""The rivals as contestants, each in an environment of its own: ``environments`` makes those, ``on_*`` are their programs, which run there
and import nothing of ours but ``reading``, ``starting`` and ``killing``."""
