"""Bytes as they are on the wire: constants, layouts, macs, and admission. Shared by protocol and datapath."""
