"""Who is calling: from the headers of a request to its `Caller`."""
