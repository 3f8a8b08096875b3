//! What the native datapath decides about packets: no I/O, no clock, no threads.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod aead;
pub mod checksum;
pub mod command;
pub mod constants;
pub mod datagrams;
pub mod drop_reason;
pub mod endpoint;
pub mod event;
pub mod inner;
pub mod message;
pub mod peer;
pub mod prefix;
pub mod secret;
pub mod virtio;

pub use command::{AdmissionKeys, Command, NewKeypair, Role};
pub use drop_reason::{DropReason, Drops};
pub use endpoint::{Endpoint, Source, UDP_PATH};
pub use event::{Event, EventQueue, Why};
pub use peer::PeerShared;
pub use prefix::Prefix;
pub use secret::Secret;

/// Nanoseconds of the boot clock.
pub type Instant = u64;

/// Names a peer across the seam, for the life of the device, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);
