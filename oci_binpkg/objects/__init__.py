"""The files of a mirror: a folder, a web server, S3, and what fsspec leads to."""
