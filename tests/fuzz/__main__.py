"""Coverage-guided fuzzing of the decode path: ``make fuzz``, a minute of it.

python -m fuzz CORPUS [libFuzzer's options]

Ends with an error, and leaves the input in a file ``crash-…``, at the first thing that is no documented error.
"""

import sys

import atheris

with atheris.instrument_imports(include=["herenow", "fuzz.targets", "jwt"]):
    from fuzz.targets import one_input


def main() -> None:
    """Fuzz until told to end."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


main()
