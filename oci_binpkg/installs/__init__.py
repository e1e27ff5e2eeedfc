"""Where packages live on disk."""
