"""OpenPGP signatures: forms, keyrings, and which are required."""
