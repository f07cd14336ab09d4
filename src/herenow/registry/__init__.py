"""Who is connected right now: the one source of truth. The store, the browsers and the commands only follow it."""
