//! Datagrams out, many with one system call where the kernel can.
//!
//! Sending survives whatever a network does to a tunnel: offloads that an interface lacks,
//! routes that come and go, our own address vanishing, firewalls, full queues. What cannot
//! be sent is counted and forgotten, as UDP has it.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use nvpn_core::virtio::MAX_UDP_PAYLOAD;
use nvpn_core::{Endpoint, Instant, Source, UDP_PATH};

use crate::sys::{self, Errno, NO_FD, Way};

/// What hands datagrams to the kernel; tests have one that refuses.
pub trait Transmit {
    /// Send one datagram, or several of `way.segment` bytes each, from a socket.
    ///
    /// # Errors
    /// What the kernel says.
    fn transmit(&mut self, fd: RawFd, datagrams: &[u8], way: &Way) -> Result<usize, Errno>;
}

/// The kernel itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Transmit for Kernel {
    #[inline]
    fn transmit(&mut self, fd: RawFd, datagrams: &[u8], way: &Way) -> Result<usize, Errno> {
        sys::send(fd, &[IoSlice::new(datagrams)], way)
    }
}

const MAX_PATHS: usize = 4096;
const SINGLES_FOR: Instant = 60_000_000_000;

/// What became of a send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Datagrams that the kernel did not take.
    pub lost: usize,
    /// Bytes in these.
    pub lost_bytes: usize,
    /// The kernel refused our own address: the peer's endpoint should forget it.
    pub forget_source: bool,
}

impl Outcome {
    fn lost(datagrams: &[u8], count: usize) -> Self {
        Self {
            lost: count,
            lost_bytes: datagrams.len(),
            forget_source: false,
        }
    }

    fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.lost_bytes += other.lost_bytes;
        self.forget_source |= other.forget_source;
    }
}

/// The sending half of both sockets.
#[derive(Debug)]
pub struct UdpSender<T = Kernel> {
    kernel: T,
    ipv4: RawFd,
    ipv6: RawFd,
    gso: bool,
    refused: bool,
    /// Of paths other than UDP's.
    paths: HashMap<u32, RawFd>,
    max_segments: usize,
    // Where a merged send met a smaller MTU on its way: one by one until then.
    singles_until: HashMap<SocketAddr, Instant>,
}

impl<T: Transmit> UdpSender<T> {
    /// Without sockets yet.
    ///
    /// `max_segments` is UDP_MAX_SEGMENTS of this kernel.
    pub fn new(kernel: T, gso: bool, max_segments: usize) -> Self {
        Self {
            kernel,
            ipv4: NO_FD,
            ipv6: NO_FD,
            gso,
            refused: false,
            paths: HashMap::new(),
            max_segments: max_segments.max(1),
            singles_until: HashMap::new(),
        }
    }

    /// Send through these from now on: sockets, and the descriptors of paths by number.
    pub fn use_sources(&mut self, ipv4: RawFd, ipv6: RawFd, paths: &[(u32, RawFd)]) {
        if (self.ipv4, self.ipv6) != (ipv4, ipv6) {
            (self.ipv4, self.ipv6) = (ipv4, ipv6);
            self.singles_until.clear();
            // An older kernel would send one giant datagram instead of refusing.
            self.gso &= [ipv4, ipv6]
                .into_iter()
                .filter(|&fd| fd >= 0)
                .all(sys::has_gso);
        }
        self.paths = paths.iter().copied().collect();
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
        let limit = if segment < datagrams.len() && self.may_merge(endpoint, now) {
            self.at_once(segment) * segment
        } else {
            segment
        };
        let calls = datagrams.chunks(limit.max(1));
        self.send_all(endpoint, endpoint.source, calls, segment, tos, now)
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
        if endpoint.path != UDP_PATH {
            return self.send_on_path(endpoint.path, datagrams);
        }
        let fd = if endpoint.remote.is_ipv4() {
            self.ipv4
        } else {
            self.ipv6
        };
        let count = datagrams.len().div_ceil(segment.max(1)).max(1);
        if fd < 0 {
            return Outcome::lost(datagrams, count);
        }
        let way = Way {
            remote: endpoint.remote,
            source: source.map(|source| (source.address, source.interface)),
            tos,
            segment: if count > 1 { segment as u16 } else { 0 },
        };
        match self.kernel.transmit(fd, datagrams, &way) {
            Ok(_) => Outcome::default(),
            Err(errno) => self.recover(
                errno, endpoint, source, datagrams, segment, tos, now, fd, &way,
            ),
        }
    }

    /// One datagram into the descriptor of a path; full is a loss, too.
    fn send_on_path(&self, path: u32, datagram: &[u8]) -> Outcome {
        let sent = self
            .paths
            .get(&path)
            .map(|&fd| sys::send_to_path(fd, datagram));
        match sent {
            Some(Ok(_)) => Outcome::default(),
            _ => Outcome::lost(datagram, 1),
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
        if count > 1 && maybe_merging(errno) {
            let outcome = self.send_singly(endpoint, source, datagrams, segment, tos, now);
            // What is wrong with the endpoint, or with our address, is so for each alone.
            if errno == libc::EMSGSIZE || outcome == Outcome::default() {
                self.merge_less(errno, endpoint, now);
            }
            return outcome;
        }
        if source.is_some() && maybe_source(errno) {
            let mut outcome = self.send_some(endpoint, None, datagrams, segment, tos, now);
            outcome.forget_source = true;
            return outcome;
        }
        // A report about an earlier datagram that this call happened to collect.
        let about_another = matches!(errno, libc::ECONNREFUSED | libc::EINTR);
        if about_another && self.kernel.transmit(fd, datagrams, way).is_ok() {
            return Outcome::default();
        }
        Outcome::lost(datagrams, count)
    }

    fn send_singly(
        &mut self,
        endpoint: &Endpoint,
        source: Option<Source>,
        datagrams: &[u8],
        segment: usize,
        tos: u8,
        now: Instant,
    ) -> Outcome {
        let singly = datagrams.chunks(segment.max(1));
        self.send_all(endpoint, source, singly, segment, tos, now)
    }

    /// A call for each; an address of ours that the kernel refused is not tried again.
    fn send_all<'a>(
        &mut self,
        endpoint: &Endpoint,
        mut source: Option<Source>,
        calls: impl Iterator<Item = &'a [u8]>,
        segment: usize,
        tos: u8,
        now: Instant,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for some in calls {
            outcome.add(self.send_some(endpoint, source, some, segment, tos, now));
            if outcome.forget_source {
                source = None;
            }
        }
        outcome
    }

    /// The kernel refused a merged send of what it then took singly.
    fn merge_less(&mut self, errno: Errno, endpoint: &Endpoint, now: Instant) {
        if matches!(errno, libc::EMSGSIZE | libc::EINVAL) {
            // The path's MTU is below our segments; alone each is cut.
            if self.singles_until.len() >= MAX_PATHS {
                self.singles_until.clear(); // they find out again
            }
            let until = now.saturating_add(SINGLES_FOR);
            self.singles_until.insert(endpoint.remote, until);
        } else {
            self.refused |= self.gso;
            self.gso = false;
        }
    }
}

/// Sending several datagrams in one call may be what the kernel objects to.
///
/// EMSGSIZE: the path's MTU is below our segments; kernels from before 2025 say EINVAL. EIO: an
/// interface without checksum offload.
fn maybe_merging(errno: Errno) -> bool {
    matches!(
        errno,
        libc::EMSGSIZE | libc::EINVAL | libc::EIO | libc::EOPNOTSUPP
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Takes down what it is given, and refuses as it was told to.
    #[derive(Default)]
    struct Refusing {
        answers: VecDeque<Errno>,
        merged: Option<Errno>,
        sourced: Option<Errno>,
        calls: Vec<(usize, Way)>,
    }

    impl Transmit for Refusing {
        fn transmit(&mut self, _: RawFd, datagrams: &[u8], way: &Way) -> Result<usize, Errno> {
            self.calls.push((datagrams.len(), *way));
            let refusal = match (way.segment, way.source) {
                (1.., _) if self.merged.is_some() => self.merged,
                (_, Some(_)) if self.sourced.is_some() => self.sourced,
                _ => self.answers.pop_front().filter(|&errno| errno != 0),
            };
            refusal.map_or(Ok(datagrams.len()), Err)
        }
    }

    fn sender(kernel: Refusing) -> UdpSender<Refusing> {
        let mut sender = UdpSender::new(kernel, true, 64);
        // Never used: the kernel is not asked.
        (sender.ipv4, sender.ipv6) = (1000, 1000);
        sender
    }

    fn there() -> Endpoint {
        Endpoint {
            source: Some(Source {
                address: [192, 0, 2, 9].into(),
                interface: 3,
            }),
            ..Endpoint::new("192.0.2.1:51820".parse().unwrap())
        }
    }

    fn sizes(sender: &UdpSender<Refusing>) -> Vec<(usize, u16)> {
        sender
            .kernel
            .calls
            .iter()
            .map(|(size, way)| (*size, way.segment))
            .collect()
    }

    #[test]
    fn many_leave_in_as_few_calls_as_the_kernel_takes() {
        let mut sender = sender(Refusing::default());
        let outcome = sender.send(&there(), &[0; 1452 * 50 + 100], 1452, 0, 0);
        assert_eq!(outcome, Outcome::default());
        assert_eq!(sizes(&sender), [(1452 * 45, 1452), (1452 * 5 + 100, 1452)]);
        sender.kernel.calls.clear();
        let _ = sender.send(&there(), &[0; 100 * 130], 100, 0, 0);
        assert_eq!(sizes(&sender), [(6400, 100), (6400, 100), (200, 100)]);
        sender.kernel.calls.clear();
        let _ = sender.send(&there(), &[0; 1000], 1000, 0, 0);
        assert_eq!(sizes(&sender), [(1000, 0)]);
    }

    #[test]
    fn an_interface_without_checksums_gets_them_singly_and_for_ever() {
        for errno in [libc::EIO, libc::EOPNOTSUPP] {
            let mut sender = sender(Refusing {
                merged: Some(errno),
                ..Default::default()
            });
            assert_eq!(
                sender.send(&there(), &[0; 250], 100, 0, 0),
                Outcome::default()
            );
            assert_eq!(sizes(&sender), [(250, 100), (100, 0), (100, 0), (50, 0)]);
            assert!(!sender.gso() && sender.refused());
            sender.kernel.calls.clear();
            let _ = sender.send(&there(), &[0; 200], 100, 0, 0);
            assert_eq!(sizes(&sender), [(100, 0), (100, 0)]);
        }
    }

    #[test]
    fn an_endpoint_that_is_at_fault_itself_costs_nobody_else_the_merged_sends() {
        let endpoint = Endpoint {
            source: None,
            ..there()
        };
        let answers = [libc::EINVAL, libc::EINVAL, libc::EINVAL].into();
        let mut sender = sender(Refusing {
            answers,
            ..Default::default()
        });
        assert_eq!(sender.send(&endpoint, &[0; 200], 100, 0, 0).lost, 2);
        assert!(sender.gso() && !sender.refused() && sender.may_merge(&endpoint, 0));
    }

    #[test]
    fn a_small_mtu_on_the_way_means_singly_to_there_for_a_while() {
        // The second is what kernels from before 2025 say.
        for errno in [libc::EMSGSIZE, libc::EINVAL] {
            let mut sender = sender(Refusing {
                merged: Some(errno),
                ..Default::default()
            });
            let outcome = sender.send(&there(), &[0; 200], 100, 0, 5);
            assert_eq!(outcome, Outcome::default(), "our address is not at fault");
            assert_eq!(sizes(&sender), [(200, 100), (100, 0), (100, 0)]);
            assert!(sender.gso() && !sender.refused());
            assert!(!sender.may_merge(&there(), 4 + SINGLES_FOR));
            assert!(sender.may_merge(&Endpoint::new("192.0.2.2:1".parse().unwrap()), 5));
            assert!(sender.may_merge(&there(), 5 + SINGLES_FOR));
            assert!(sender.singles_until.is_empty());
        }
    }

    #[test]
    fn what_a_peer_that_moves_makes_us_remember_is_bounded() {
        let mut sender = sender(Refusing {
            merged: Some(libc::EMSGSIZE),
            ..Default::default()
        });
        for port in 1..=u16::MAX {
            let endpoint = Endpoint::new(([192, 0, 2, 1], port).into());
            let _ = sender.send(&endpoint, &[0; 2], 1, 0, 0);
        }
        assert!(sender.singles_until.len() <= MAX_PATHS);
    }

    #[test]
    fn a_source_that_is_gone_is_forgotten_and_nothing_lost() {
        for errno in [
            libc::EINVAL,
            libc::ENETUNREACH,
            libc::EADDRNOTAVAIL,
            libc::EPERM,
        ] {
            let mut sender = sender(Refusing {
                sourced: Some(errno),
                ..Default::default()
            });
            let outcome = sender.send(&there(), &[0; 300 * 100], 100, 0, 0);
            assert_eq!(
                outcome,
                Outcome {
                    forget_source: true,
                    ..Default::default()
                }
            );
            let with_source = sender
                .kernel
                .calls
                .iter()
                .filter(|(_, way)| way.source.is_some())
                .count();
            // EINVAL may as well be about the merging.
            let tries = if errno == libc::EINVAL { 2 } else { 1 };
            assert_eq!(with_source, tries, "it is found out once");
            assert!(sender.gso() && sender.may_merge(&there(), 0));
        }
    }

    #[test]
    fn a_report_about_another_datagram_costs_nothing() {
        for errno in [libc::ECONNREFUSED, libc::EINTR] {
            let answers = [errno].into();
            let mut sender = sender(Refusing {
                answers,
                ..Default::default()
            });
            assert_eq!(
                sender.send(&there(), &[0; 200], 100, 0, 0),
                Outcome::default()
            );
        }
    }

    #[test]
    fn what_cannot_be_sent_is_counted() {
        for errno in [libc::EAGAIN, libc::ENOBUFS, libc::ECONNREFUSED] {
            let answers = [errno; 9].into();
            let mut sender = sender(Refusing {
                answers,
                ..Default::default()
            });
            let outcome = sender.send(&there(), &[0; 250], 100, 0, 0);
            assert_eq!((outcome.lost, outcome.lost_bytes), (3, 250));
        }
        let mut sender = UdpSender::new(Refusing::default(), true, 64);
        assert_eq!(
            sender.send(&there(), &[0; 250], 100, 0, 0).lost,
            3,
            "no socket"
        );
        assert!(!sender.gso());
    }
}
