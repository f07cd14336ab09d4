"""Users in a SQLite file: the embedded default."""
