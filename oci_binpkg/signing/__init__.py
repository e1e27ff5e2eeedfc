"""OpenPGP signatures: forms, keyrings, and what is asked of them."""
