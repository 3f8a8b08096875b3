"""The portable datapath on the event loop: the reference."""
