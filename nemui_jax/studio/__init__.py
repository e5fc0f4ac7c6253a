"""The studio: a local page on which one plays between one's own songs, and its server (extra `studio`)."""
