"""Wires protocol and datapath to a host."""
