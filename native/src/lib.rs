//! The native datapath of nvpn: system calls, one thread, and the binding to Python.
#![deny(missing_docs)]
