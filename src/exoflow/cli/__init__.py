"""The command line. ``main`` holds the argument tree, ``commands`` one file for each command; the rest is what they share: ``session``
(options, store, imports), ``loading`` (from ``module:dag`` to a DAG), ``following`` (waiting, Ctrl-C), ``display`` (live progress),
``output`` (text, tables, JSON), ``failures`` (errors and exit codes), ``health`` (what ``doctor`` looks at)."""
