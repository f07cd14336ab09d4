"""The commands: ``herenow``, also installed as ``presence-manager``. One file a command."""
