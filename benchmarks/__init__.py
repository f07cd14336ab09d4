"""The measuring side of herenow: peers, load, runner, table. ``python -m benchmarks --help`` says how to run it."""
