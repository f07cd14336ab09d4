"""Several nodes that serve the same users: how one joins, lives, keeps the store for all, and leaves."""
