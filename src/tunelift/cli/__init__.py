"""The command line: one thin file per command, loaded when the command is called."""
