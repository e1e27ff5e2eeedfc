"""A proxy that stands before a registry or a mirror and makes the faults and quirks of others. Standard library only."""
