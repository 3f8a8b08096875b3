//! What the native datapath decides about packets, and what its threads share: no I/O, no
//! clock, no threads of its own.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod admission;
pub mod aead;
pub mod allowed_ips;
pub mod checksum;
pub mod coalesce;
pub mod command;
pub mod connections;
pub mod constants;
pub mod datagrams;
pub mod device;
pub mod drop_reason;
pub mod endpoint;
pub mod event;
pub mod filter;
pub mod flow;
pub mod icmp;
mod incoming;
pub mod inner;
pub mod keypair;
pub mod lane;
pub mod loops;
pub mod mailbox;
pub mod message;
mod outgoing;
pub mod peer;
pub mod prefix;
pub mod recent;
pub mod replay;
pub mod runs;
pub mod secret;
pub mod shared;
pub mod split;
pub mod staging;
mod sync;
mod table;
pub mod virtio;

pub use command::Diversion;
pub use command::{AdmissionKeys, Command, NewKeypair, Role};
pub use device::{Device, Outbox};
pub use drop_reason::{DropReason, Drops};
pub use endpoint::{Endpoint, Source, UDP_PATH};
pub use event::{Event, EventQueue, Why};
pub use filter::{PortFilter, PortRange, Rule};
pub use incoming::{Seen, SessionRef};
pub use outgoing::Sending;
pub use peer::PeerRef;
pub use prefix::Prefix;
pub use secret::Secret;
pub use shared::{Activity, Counters, PeerShared, Traffic, Watch};

/// Nanoseconds of the boot clock.
pub type Instant = u64;

/// Names a peer across the seam, for the life of the device, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);
