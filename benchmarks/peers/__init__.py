"""The servers under measurement. Each is a process of its own: ``python -m benchmarks.peers.NAME PORT``.

A peer listens on 127.0.0.1, prints ``ready``, speaks what ``benchmarks/wire.py`` lists, and on ``go`` with a number R
sends one event R times to every connected client, yielding to its loop between the rounds.
"""
