"""Files attached to a package or an image: made as artifacts, listed, and read back."""
