"""Which herenow this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("herenow")
except PackageNotFoundError:  # run from a checkout that was not installed
    VERSION = "0+unknown"
