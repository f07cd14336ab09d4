"""``python -m herenow.cli``: the same as ``herenow``."""

from herenow.cli.app import main

main()
