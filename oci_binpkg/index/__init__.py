"""The index document of a cache, the catalog of many, and searches in both."""
