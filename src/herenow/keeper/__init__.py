"""What only one process does at a time: own the store, adopt its users, write, and see that it holds the truth."""
