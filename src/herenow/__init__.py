"""Who is online, right now: a presence server and library."""
