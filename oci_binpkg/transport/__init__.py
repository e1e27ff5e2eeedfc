"""HTTP: retries, credentials, authentication and the client. `requests` appears only here."""
