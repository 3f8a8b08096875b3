"""What can carry a tunnel: our own protocol and datapath, later the kernel's."""
