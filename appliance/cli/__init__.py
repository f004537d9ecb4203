"""The command line: one thin file a command group; logic lives in the packages."""
