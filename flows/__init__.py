"""The Prefect flows, the run settings and the command line."""
