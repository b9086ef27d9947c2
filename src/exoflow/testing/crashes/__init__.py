"""``crash_everywhere``: a workflow of the user, run to its end again and again, with a process that dies each time at another place.

Everything is real (the user's functions, the engine, the journal) but the processes: a life is an engine in this thread, and when it
dies, nothing that it still does reaches the store or the outside (``points``, ``seams``, ``single``). ``trial`` is one run, ``judge``
says what is wrong with it, ``report`` says it in words, ``search`` chooses where to crash.
"""
