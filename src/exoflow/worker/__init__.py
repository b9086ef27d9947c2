"""The far end: code that runs next to the user's function. Imports no engine, so that it can run where none is."""
