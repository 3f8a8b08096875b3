//! From the peers to the TUN device.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::RawFd;

use nvpn_core::aead::{BatchAead, RingAead, plaintext};
use nvpn_core::datagrams::MAX_DATAGRAMS;
use nvpn_core::lane::Ticket;
use nvpn_core::runs::{Run, chosen};
use nvpn_core::secret::KEY_SIZE;
use nvpn_core::{DropReason, Endpoint, Instant, Seen, Source, UDP_PATH};
use zeroize::Zeroize;

use crate::common::Common;
use crate::sys;
use crate::worker::Tools;

const BUFFER_BYTES: usize = 1 << 16;

/// Reads datagrams, opens them where they lie, and writes what was in them.
///
/// What one read brings is cut into runs: transport messages under one key with
/// consecutive counters. Each run is one batch for the cipher, the replay window and the
/// peer's state; whatever is no such message makes a way of its own.
pub struct Inbound {
    buffer: Box<[u8; BUFFER_BYTES]>,
    /// Of the run that is being opened; zero otherwise.
    key: Box<[u8; KEY_SIZE]>,
    aead: RingAead,
    longest_run: usize,
}

/// Where datagrams came from, and when.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    size: usize,
    segment: usize,
    endpoint: Endpoint,
    tos: u8,
    now: Instant,
}

impl Arrival {
    /// In bytes.
    pub fn size(&self) -> usize {
        self.size
    }
}

/// Why a read has brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// There may be more.
    Yet,
    /// The socket is empty.
    Left,
    /// The descriptor is none.
    Ever,
}

impl Inbound {
    /// `batches`: whether messages may be opened several at a time.
    pub fn new(batches: bool) -> Self {
        Self {
            buffer: Box::new([0; BUFFER_BYTES]),
            key: Box::new([0; KEY_SIZE]),
            aead: RingAead,
            longest_run: if batches { MAX_DATAGRAMS } else { 1 },
        }
    }

    /// Read what a UDP socket gives at once.
    ///
    /// # Errors
    /// There is nothing.
    pub fn read(&mut self, socket: RawFd, common: &Common) -> Result<Arrival, Nothing> {
        match sys::receive(socket, &mut self.buffer[..]) {
            Ok(received) => Ok(Arrival {
                size: received.size,
                segment: match received.segment {
                    0 => received.size,
                    segment => segment,
                },
                endpoint: Endpoint {
                    remote: received.remote,
                    source: received
                        .source
                        .map(|(address, interface)| Source { address, interface }),
                    path: UDP_PATH,
                    learned_at: 0,
                },
                tos: received.tos,
                now: common.shared.now(),
            }),
            Err(libc::EAGAIN) => Err(Nothing::Left),
            Err(libc::EBADF | libc::ENOTSOCK) => Err(Nothing::Ever),
            // An ICMP error about something sent earlier: not worth a word.
            Err(_) => Err(Nothing::Yet),
        }
    }

    /// Read a datagram from the descriptor of a path.
    ///
    /// # Errors
    /// There is nothing.
    pub fn read_path(
        &mut self,
        path: u32,
        descriptor: RawFd,
        common: &Common,
    ) -> Result<Arrival, Nothing> {
        let size = match sys::receive_from_path(descriptor, &mut self.buffer[..]) {
            Ok(0) => return Err(Nothing::Ever),
            Ok(size) => size,
            Err(libc::EAGAIN | libc::EINTR) => return Err(Nothing::Left),
            Err(_) => return Err(Nothing::Ever),
        };
        let nowhere = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0);
        Ok(Arrival {
            size,
            segment: size,
            endpoint: Endpoint {
                path,
                ..Endpoint::new(nowhere.into())
            },
            tos: 0,
            now: common.shared.now(),
        })
    }

    /// Deliver what was read. Ciphers work before the ticket's turn, all else in it.
    pub fn deliver(
        &mut self,
        arrival: &Arrival,
        ticket: &Ticket<'_>,
        common: &Common,
        tools: &mut Tools,
    ) {
        tools.tun.begin();
        let mut start = 0;
        loop {
            let end = arrival.size.min(start + arrival.segment);
            let rest = &self.buffer[start..arrival.size];
            if let Some(run) = Run::find(rest, arrival.segment, self.longest_run) {
                self.open(&run, start, arrival, ticket, common, tools);
                start += run.messages.size();
            } else if ticket.wait() {
                let datagram = &mut self.buffer[start..end];
                let Arrival {
                    endpoint, tos, now, ..
                } = arrival;
                common.with_device(|device| {
                    device.receive(datagram, endpoint, *tos, *now, &mut tools.mail);
                    tools.mail.send(device, &mut tools.udp, *now);
                });
                start = end;
            }
            if start >= arrival.size || common.shared.is_stopped() {
                break;
            }
        }
        if ticket.wait() {
            let written = tools.tun.write(&self.buffer[..]);
            let drops = &common.shared.drops;
            drops.add(DropReason::TunWriteFailed, written.lost);
        }
    }

    /// Open a run that begins at `start`, and judge what is in it.
    fn open(
        &mut self,
        run: &Run,
        start: usize,
        arrival: &Arrival,
        ticket: &Ticket<'_>,
        common: &Common,
        tools: &mut Tools,
    ) {
        let Arrival {
            endpoint, tos, now, ..
        } = arrival;
        let key = &mut *self.key;
        let Some(admitted) = common.with_device(|device| device.admit(run, *now, key)) else {
            return;
        };
        let messages = &mut self.buffer[start..start + run.messages.size()];
        let opened = self
            .aead
            .open(key, messages, &run.messages, admitted.wanted);
        key.zeroize();
        if !ticket.wait() {
            return;
        }
        common.with_device(|device| {
            let accepted = device.settle(run, &admitted, opened, endpoint, *now, &mut tools.mail);
            // What waited for this session goes first; nothing must overtake it.
            tools.mail.send(device, &mut tools.udp, *now);
            let mut seen = Seen::default();
            for range in chosen(&run.messages, accepted) {
                let body = plaintext(range.len());
                if body.is_empty() {
                    continue;
                }
                let at = start + range.start + body.start;
                let plain = &mut self.buffer[at..start + range.start + body.end];
                let peer = admitted.session.peer;
                if let Some(size) = device.judge(peer, plain, *tos, *now, &mut seen) {
                    tools.tun.coalescer().push(&self.buffer[..], at..at + size);
                }
            }
        });
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}
