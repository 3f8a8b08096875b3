//! What the native datapath decides about packets: no I/O, no clock, no threads.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
