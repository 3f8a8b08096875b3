//! Where a peer is reached, and from which of our own addresses.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::Instant;

/// The path of endpoints that our UDP sockets serve.
pub const UDP_PATH: u32 = 0;

/// Our own side of a path: the address that a peer's packets arrived at.
///
/// Answers leave from there until the kernel says that it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The address.
    pub address: IpAddr,
    /// The kernel's interface index, 0 for any.
    pub interface: u32,
}

/// A peer's address on a path.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address and port, for IPv6 with the scope; its flow label is always 0. On a path
    /// other than [`UDP_PATH`] it may be anything.
    pub remote: SocketAddr,
    /// Our own address; `None` for the kernel's choice.
    pub source: Option<Source>,
    /// [`UDP_PATH`], or the number of a datagram descriptor.
    pub path: u32,
    /// Of two endpoints the one learned later wins.
    pub learned_at: Instant,
}

impl Endpoint {
    /// A place on the UDP path, not learned from any packet.
    pub const fn new(remote: SocketAddr) -> Self {
        Self {
            remote,
            source: None,
            path: UDP_PATH,
            learned_at: 0,
        }
    }

    /// 4 or 6: which UDP socket serves it.
    pub const fn version(&self) -> u8 {
        if self.remote.is_ipv4() { 4 } else { 6 }
    }

    /// Whether both are the same place to send to.
    pub fn same_remote(&self, other: &Self) -> bool {
        self.remote == other.remote && self.path == other.path
    }

    /// Whether both are the same place, reached from the same address of ours.
    pub fn same_way(&self, other: &Self) -> bool {
        self.same_remote(other) && self.source == other.source
    }

    /// The same, learned at another time.
    pub const fn learned(mut self, at: Instant) -> Self {
        self.learned_at = at;
        self
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote)?;
        if self.path != UDP_PATH {
            write!(f, " path {}", self.path)?;
        }
        if let Some(source) = self.source {
            write!(f, " from {}", source.address)?;
        }
        Ok(())
    }
}
