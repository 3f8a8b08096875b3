"""Frozen values that every room shares: keys, prefixes, endpoints, changes, snapshots, notices."""
