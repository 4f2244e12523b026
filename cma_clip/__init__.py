"""What every package stands on: files, settings, machine, and the command line."""
