"""The command line: the only place that wires, renders and reads the environment."""
