"""Fuzzing of what reads bytes that others wrote: `make fuzz`."""
