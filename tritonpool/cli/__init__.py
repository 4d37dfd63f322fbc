"""The command ``tritonpool``."""
