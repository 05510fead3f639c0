"""Afterglow on one machine: the runner with its embedded Postgres, the demo and the command line."""
