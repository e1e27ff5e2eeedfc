"""Installed software as container layers: push, run and install package prefixes through any OCI registry."""

__version__ = "0.1.0"
