"""This engine as a contestant: a file for each kind of work, ``proof`` checks on disk that it was done."""
