//! Datagrams out, many with one system call where the kernel can.
//!
//! Sending survives whatever a network does to a tunnel: offloads that an interface lacks,
//! routes that come and go, our own address vanishing, firewalls, full queues. What cannot
//! be sent is counted and forgotten, as UDP has it.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use nvpn_core::{Endpoint, Instant, Source, UDP_PATH};

use crate::sys::{self, Errno, NO_FD, Way};

/// Of one datagram over IPv4, and so of one send of many segments.
pub const MAX_UDP_PAYLOAD: usize = 65507;

const MAX_PATHS: usize = 4096;
const SINGLES_FOR: Instant = 60_000_000_000;

/// What became of a send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Datagrams that the kernel did not take.
    pub lost: usize,
    /// The kernel refused our own address: the peer's endpoint should forget it.
    pub forget_source: bool,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.forget_source |= other.forget_source;
    }
}

/// The sending half of both sockets.
#[derive(Debug)]
pub struct UdpSender {
    ipv4: RawFd,
    ipv6: RawFd,
    gso: bool,
    refused: bool,
    max_segments: usize,
    // Where a merged send met a smaller MTU on its way: one by one until then.
    singles_until: HashMap<SocketAddr, Instant>,
}

impl UdpSender {
    /// Without sockets yet.
    ///
    /// `max_segments` is UDP_MAX_SEGMENTS of this kernel.
    pub fn new(gso: bool, max_segments: usize) -> Self {
        Self {
            ipv4: NO_FD,
            ipv6: NO_FD,
            gso,
            refused: false,
            max_segments: max_segments.max(1),
            singles_until: HashMap::new(),
        }
    }

    /// Send through these from now on.
    pub fn use_sockets(&mut self, ipv4: RawFd, ipv6: RawFd) {
        (self.ipv4, self.ipv6) = (ipv4, ipv6);
        self.singles_until.clear();
        // An older kernel would send one giant datagram instead of refusing.
        self.gso &= [ipv4, ipv6]
            .into_iter()
            .filter(|&fd| fd >= 0)
            .all(sys::has_gso);
    }

    /// Whether merged sends are in use.
    pub fn gso(&self) -> bool {
        self.gso && (self.ipv4 >= 0 || self.ipv6 >= 0)
    }

    /// Whether the kernel has refused merged sends.
    pub fn refused(&self) -> bool {
        self.refused
    }

    /// How many datagrams of this size may leave in one call.
    pub fn at_once(&self, segment: usize) -> usize {
        (MAX_UDP_PAYLOAD / segment.max(1)).clamp(1, self.max_segments)
    }

    /// Send datagrams that lie one after the other, all of `segment` bytes, the last maybe
    /// shorter.
    pub fn send(
        &mut self,
        endpoint: &Endpoint,
        datagrams: &[u8],
        segment: usize,
        tos: u8,
        now: Instant,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut source = endpoint.source;
        let limit = if segment < datagrams.len() && self.may_merge(endpoint, now) {
            self.at_once(segment) * segment
        } else {
            segment.max(1)
        };
        if datagrams.is_empty() {
            return outcome;
        }
        for some in datagrams.chunks(limit) {
            outcome.add(self.send_some(endpoint, source, some, segment, tos, now));
            if outcome.forget_source {
                source = None;
            }
        }
        outcome
    }

    /// Whether several datagrams for that endpoint may leave in one call.
    pub fn may_merge(&mut self, endpoint: &Endpoint, now: Instant) -> bool {
        if !self.gso || endpoint.path != UDP_PATH {
            return false;
        }
        if self.singles_until.is_empty() {
            return true;
        }
        match self.singles_until.get(&endpoint.remote) {
            None => true,
            Some(&until) if now < until => false,
            Some(_) => {
                self.singles_until.remove(&endpoint.remote);
                true
            }
        }
    }

    /// At most as many as one call takes.
    fn send_some(
        &mut self,
        endpoint: &Endpoint,
        source: Option<Source>,
        datagrams: &[u8],
        segment: usize,
        tos: u8,
        now: Instant,
    ) -> Outcome {
        let fd = if endpoint.remote.is_ipv4() {
            self.ipv4
        } else {
            self.ipv6
        };
        let count = datagrams.len().div_ceil(segment.max(1)).max(1);
        if fd < 0 || endpoint.path != UDP_PATH {
            return Outcome {
                lost: count,
                forget_source: false,
            };
        }
        let way = Way {
            remote: endpoint.remote,
            source: source.map(|source| (source.address, source.interface)),
            tos,
            segment: if count > 1 { segment as u16 } else { 0 },
        };
        match sys::send(fd, &[IoSlice::new(datagrams)], &way) {
            Ok(_) => Outcome::default(),
            Err(errno) => self.recover(
                errno, endpoint, source, datagrams, segment, tos, now, fd, &way,
            ),
        }
    }

    /// A send failed: find another way, each at most once, or count the loss.
    #[allow(clippy::too_many_arguments)]
    #[cold]
    fn recover(
        &mut self,
        errno: Errno,
        endpoint: &Endpoint,
        source: Option<Source>,
        datagrams: &[u8],
        segment: usize,
        tos: u8,
        now: Instant,
        fd: RawFd,
        way: &Way,
    ) -> Outcome {
        let count = datagrams.len().div_ceil(segment.max(1)).max(1);
        if source.is_some() && maybe_source(errno) {
            let mut outcome = self.send_some(endpoint, None, datagrams, segment, tos, now);
            outcome.forget_source = true;
            return outcome;
        }
        if count > 1 && errno == libc::EMSGSIZE {
            // The path's MTU is below our segments. Alone each is cut and passes.
            if self.singles_until.len() >= MAX_PATHS {
                self.singles_until.clear(); // they find out again
            }
            self.singles_until
                .insert(endpoint.remote, now + SINGLES_FOR);
            return self.send_singly(endpoint, source, datagrams, segment, tos, now);
        }
        if count > 1 && matches!(errno, libc::EIO | libc::EINVAL | libc::EOPNOTSUPP) {
            // An interface without checksum offload (EIO), or a kernel with other ideas;
            // unless the endpoint itself is at fault, which a single send shows.
            let outcome = self.send_singly(endpoint, source, datagrams, segment, tos, now);
            if outcome.lost == 0 {
                self.refused |= self.gso;
                self.gso = false;
            }
            return outcome;
        }
        // A report about an earlier datagram that this call happened to collect.
        let about_another = matches!(errno, libc::ECONNREFUSED | libc::EINTR);
        if about_another && sys::send(fd, &[IoSlice::new(datagrams)], way).is_ok() {
            return Outcome::default();
        }
        Outcome {
            lost: count,
            forget_source: false,
        }
    }

    fn send_singly(
        &mut self,
        endpoint: &Endpoint,
        mut source: Option<Source>,
        datagrams: &[u8],
        segment: usize,
        tos: u8,
        now: Instant,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for one in datagrams.chunks(segment) {
            outcome.add(self.send_some(endpoint, source, one, one.len(), tos, now));
            if outcome.forget_source {
                source = None;
            }
        }
        outcome
    }
}

/// Our own address on the path may be what the kernel objects to:
/// IPv4 answers ENETUNREACH when it has vanished, IPv6 EINVAL.
fn maybe_source(errno: Errno) -> bool {
    matches!(
        errno,
        libc::EINVAL
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EADDRNOTAVAIL
            | libc::ENODEV
            | libc::ENETDOWN
            | libc::EPERM
            | libc::EACCES
    )
}
