"""Who a client is, and until when."""
