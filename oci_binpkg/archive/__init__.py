"""A prefix <-> layer bytes. Knows files, not the network."""
