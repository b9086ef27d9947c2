"""What must happen. Pure: no I/O, clock, randomness, threads, logging, async.

Theory of operation
-------------------
A :class:`~exoflow.core.machine.Machine` drives one workflow. Facts come in as events (``events``), orders go out as commands
(``commands``), and whatever must survive a crash goes out as journal records (``journal``) inside the one command ``Append``.
Folding the records of any prefix of a journal rebuilds everything that must be known (``journal.fold``).

One turn of the machine has three parts:

1. a small handler (``transitions``) notes what the event says on the tasks that it names;
2. ``readiness.review`` looks at each task that something may have changed for, until nothing changes: joint conditions live there and
   nowhere else (inputs here? effect still standing? commit rule satisfied?);
3. the records and commands of the turn leave together.

The rest are the ideas that those two use: ``demand`` (what is wanted, what must run again after a loss), ``withdrawal`` (what saw a
version that no longer exists, and in which order it is undone), ``stability`` (the commit rule, kept incrementally), ``growth``
(sub-workflows), ``ending`` (success, failure, cancel, doubt), ``checks`` (the dry run at submission).

Three rules of this folder
--------------------------
1. Nothing here acts, and nothing here depends on hash order, identity or time: same events in, same commands out.
2. A fact that must survive a crash becomes true when its record is durable (event ``Appended``), never before.
3. Records of one workflow become durable in the order in which they were appended; whoever appends may rely on it.
"""
