"""Addresses, routes and link settings, one file a platform."""
