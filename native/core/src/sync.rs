//! What threads share is made of these; under `--cfg loom` every interleaving is tried:
//! `RUSTFLAGS="--cfg loom" cargo test -p nvpn-core --lib shared`.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
