"""The host's side of an interface: link, addresses, routes. One file a platform."""
