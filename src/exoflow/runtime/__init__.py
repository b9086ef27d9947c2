"""Making it happen: the only code that knows both the core and the outside. It decides nothing.

``loop`` takes an event, asks the machine, performs the commands (``perform``; ``attempts`` for calls of functions). ``commit`` is the
one place where anything becomes durable. ``values`` keeps outputs in memory and fetches saved ones. ``ownership`` says who may drive a
workflow.
"""
