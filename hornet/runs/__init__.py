"""The folder of a run, and the lock that keeps two jobs out of it."""
