"""The native datapath: a Rust engine on a thread of its own, and its adapter to the seam."""
