"""Old prefix -> new prefix."""
