"""Sessions of Engine.IO, and what keeps them alive."""
