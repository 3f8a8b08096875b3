"""The native datapath: a Rust engine on threads of its own, and its adapter to the seam."""
