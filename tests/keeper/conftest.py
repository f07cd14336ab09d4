"""The databases that the keeper's tests keep: those of the stores' own."""

from store.conftest import kept, path, shop, store

__all__ = ["kept", "path", "shop", "store"]
