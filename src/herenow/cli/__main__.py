"""``python -m herenow.cli``: the same as ``herenow``."""

from herenow.cli.entry import main

main()
