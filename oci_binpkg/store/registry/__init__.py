"""The client of the distribution API, named by its nouns."""
