"""Doors to the outside world: the log, the database, models, the sandbox. One library, one door."""
