//! The native datapath of nvpn: system calls, threads, and the binding to Python.
//!
//! What is decided about packets is decided in `nvpn_core`; here packets and descriptors
//! meet. [`sys`] alone contains unsafe code.
#![deny(missing_docs, unsafe_code)]

mod binding;
pub mod common;
pub mod engine;
pub mod inbound;
pub mod mail;
pub mod outbound;
mod pace;
pub mod roster;
#[allow(unsafe_code)]
pub mod sys;
pub mod tun;
pub mod udp;
pub mod worker;
