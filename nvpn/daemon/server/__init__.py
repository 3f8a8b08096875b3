"""A server in the daemon: its registry's clients as peers, its answers on the channel, its end."""
