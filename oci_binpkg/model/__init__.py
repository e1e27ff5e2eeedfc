"""What things are: values on the standard library alone, no I/O."""
