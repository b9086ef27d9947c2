"""How code talks to an engine: ``Engine`` for an explicit one, ``default`` for the functions of the package, ``report`` for looking in."""
