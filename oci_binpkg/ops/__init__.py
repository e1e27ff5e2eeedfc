"""Use cases: push, image, find, inspect, ..."""
