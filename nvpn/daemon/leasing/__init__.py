"""The client's side of leases: asking a server for addresses, and living with what it tells."""
