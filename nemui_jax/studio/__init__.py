"""The studio: a local page for playing between songs of a run, and its server (extra `studio`)."""
