"""`python -m oci_binpkg`."""

from oci_binpkg.cli.app import main

if __name__ == "__main__":
    main()
