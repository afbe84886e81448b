"""Quality and speed, each table one command."""
