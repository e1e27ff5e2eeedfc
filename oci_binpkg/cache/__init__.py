"""Packages over a store or a mirror, one protocol."""
