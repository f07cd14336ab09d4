"""How well clients are served."""
