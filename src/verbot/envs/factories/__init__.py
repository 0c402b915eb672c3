"""Envs by name, one file a simulator. Importing these files loads no simulator; the factories do."""
