"""The registry of a cluster: facts in Redis (or Valkey), decided by the same rules, committed by compare-and-set."""
