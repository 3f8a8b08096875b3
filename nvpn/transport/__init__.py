"""The outer side: UDP sockets."""
