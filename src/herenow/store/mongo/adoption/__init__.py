"""What is done once with a collection: it is looked at, filled, indexed and noted as prepared."""
