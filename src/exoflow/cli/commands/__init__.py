"""One file for each command of ``exoflow``. Each reads like a script: open the engine, call it, print what came of it."""
