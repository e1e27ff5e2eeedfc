"""Content stores: registries, OCI image layouts, memory, engines, behind one small protocol."""
