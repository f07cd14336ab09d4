"""Users in an application's own MongoDB collection."""
