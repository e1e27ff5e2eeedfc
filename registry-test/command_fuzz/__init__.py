"""Fuzzing of the whole command: worlds made by grammar, every verb, a sandbox and a judge. `make fuzz-commands`."""
