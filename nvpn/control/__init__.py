"""The control socket: WireGuard's cross-platform UAPI, both ends."""
