//! From the peers to the TUN device.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::ops::Range;
use std::os::fd::RawFd;

use nvpn_core::aead::{BatchAead, RingAead, plaintext};
use nvpn_core::constants::{MIN_TRANSPORT_SIZE, REJECT_AFTER_MESSAGES};
use nvpn_core::datagrams::{Datagrams, MAX_DATAGRAMS};
use nvpn_core::message::{MessageType, read_u32, read_u64};
use nvpn_core::{Device, DropReason, Endpoint, Instant, SessionRef, Source, Traffic, UDP_PATH};

use crate::engine::Shared;
use crate::mail::Mail;
use crate::sys;
use crate::tun::TunPort;

const READS_A_TURN: usize = 4;
const DATAGRAMS_A_TURN: usize = 64;
const BUFFER_BYTES: usize = 1 << 16;

/// What a read of a socket has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There may be more.
    More,
    /// The socket is empty.
    Empty,
    /// The descriptor is none.
    Gone,
}

/// Reads datagrams, opens them where they lie, and writes what was in them.
///
/// What one read brings is cut into runs: transport messages under one key with
/// consecutive counters. Each run is one batch for the cipher, the replay window and the
/// peer's state; whatever is no such message makes a way of its own.
pub struct Inbound {
    buffer: Box<[u8; BUFFER_BYTES]>,
    aead: RingAead,
    longest_run: usize,
}

/// Where datagrams came from, and when.
#[derive(Clone, Copy)]
struct Arrival {
    size: usize,
    segment: usize,
    endpoint: Endpoint,
    tos: u8,
    now: Instant,
}

impl Inbound {
    /// `batches`: whether messages may be opened several at a time.
    pub fn new(batches: bool) -> Self {
        Self {
            buffer: Box::new([0; BUFFER_BYTES]),
            aead: RingAead,
            longest_run: if batches { MAX_DATAGRAMS } else { 1 },
        }
    }

    /// Deliver a turn's share of what a socket has.
    pub fn run(
        &mut self,
        socket: RawFd,
        shared: &Shared,
        device: &mut Device,
        tun: &mut TunPort,
        mail: &mut Mail,
    ) -> Found {
        for _ in 0..READS_A_TURN {
            match sys::receive(socket, &mut self.buffer[..]) {
                Ok(received) => {
                    let source = received
                        .source
                        .map(|(address, interface)| Source { address, interface });
                    let arrival = Arrival {
                        size: received.size,
                        segment: match received.segment {
                            0 => received.size,
                            segment => segment,
                        },
                        endpoint: Endpoint {
                            remote: received.remote,
                            source,
                            path: UDP_PATH,
                            learned_at: 0,
                        },
                        tos: received.tos,
                        now: shared.now(),
                    };
                    self.take(&arrival, device, tun, mail);
                }
                Err(libc::EAGAIN) => return Found::Empty,
                Err(libc::EBADF | libc::ENOTSOCK) => return Found::Gone,
                // An ICMP error about something sent earlier: not worth a word.
                Err(_) => {}
            }
        }
        Found::More
    }

    /// Deliver a turn's share of what the descriptor of a path has.
    pub fn run_path(
        &mut self,
        path: u32,
        descriptor: RawFd,
        shared: &Shared,
        device: &mut Device,
        tun: &mut TunPort,
        mail: &mut Mail,
    ) -> Found {
        let nowhere = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0);
        let endpoint = Endpoint {
            path,
            ..Endpoint::new(nowhere.into())
        };
        for _ in 0..DATAGRAMS_A_TURN {
            let size = match sys::receive_from_path(descriptor, &mut self.buffer[..]) {
                Ok(0) => return Found::Gone,
                Ok(size) => size,
                Err(libc::EAGAIN | libc::EINTR) => return Found::Empty,
                Err(_) => return Found::Gone,
            };
            let now = shared.now();
            let arrival = Arrival {
                size,
                segment: size,
                endpoint,
                tos: 0,
                now,
            };
            self.take(&arrival, device, tun, mail);
        }
        Found::More
    }

    fn take(&mut self, arrival: &Arrival, device: &mut Device, tun: &mut TunPort, mail: &mut Mail) {
        tun.begin();
        let size = arrival.size;
        let mut start = 0;
        loop {
            let end = size.min(start + arrival.segment);
            let run = self.find_run(start..end, arrival);
            if run.is_empty() {
                let datagram = &mut self.buffer[start..end];
                device.receive(datagram, &arrival.endpoint, arrival.tos, arrival.now, mail);
                start = end;
            } else {
                start = run.end;
                if let Err((reason, count)) = self.open_run(run, arrival, device, tun, mail) {
                    device.drop_packets(reason, count);
                }
            }
            if start >= size {
                break;
            }
        }
        let written = tun.write(&self.buffer[..]);
        device.drop_packets(DropReason::TunWriteFailed, written.lost);
    }

    /// Messages from the first one on that are alike but for their counters, which follow
    /// each other; empty if that one is no transport message.
    fn find_run(&self, first: Range<usize>, arrival: &Arrival) -> Range<usize> {
        let messages = &self.buffer[..arrival.size];
        let message = &messages[first.clone()];
        let is_transport = read_u32(message, 0) == Some(MessageType::Transport as u32);
        if !is_transport || message.len() < MIN_TRANSPORT_SIZE {
            return 0..0;
        }
        let (head, mut counter) = (read_u64(message, 0), read_u64(message, 8));
        let mut end = first.end;
        for _ in 1..self.longest_run {
            let next = &messages[end..arrival.size.min(end + arrival.segment)];
            counter = counter.and_then(|counter| counter.checked_add(1));
            let follows = next.len() >= MIN_TRANSPORT_SIZE
                && read_u64(next, 0) == head
                && counter.is_some()
                && read_u64(next, 8) == counter;
            if !follows {
                break;
            }
            end += next.len();
        }
        first.start..end
    }

    /// Protocol rules 31 to 35, in their order, for a run. What is not opened is dropped for
    /// the reason that is returned, or counted here.
    fn open_run(
        &mut self,
        run: Range<usize>,
        arrival: &Arrival,
        device: &mut Device,
        tun: &mut TunPort,
        mail: &mut Mail,
    ) -> Result<(), (DropReason, u64)> {
        let messages = &mut self.buffer[run.clone()];
        let Some(all) = Datagrams::covering(messages.len(), arrival.segment) else {
            return Ok(());
        };
        let count = all.count() as u64;
        let our_index = read_u32(messages, 4).unwrap_or(0);
        let first = read_u64(messages, 8).unwrap_or(u64::MAX);
        let unknown = (DropReason::UnknownIndex, count);
        let session = device.lookup(our_index).ok_or(unknown)?;
        let keypair = device.session(session).ok_or(unknown)?;
        if !keypair.may_receive_at(arrival.now) {
            return Err((DropReason::KeyExpired, count));
        }
        let in_time = REJECT_AFTER_MESSAGES.saturating_sub(first).min(count);
        device.drop_packets(DropReason::KeyExpired, count - in_time);

        // The counters are checked twice: here to spare the AEAD work on plain replays, and
        // after opening, because only then are they known to come from the peer.
        let window = keypair.window();
        let wanted = if in_time == count && window.may_accept_run(first, count) {
            all.all()
        } else {
            members(0..in_time as usize, |index| {
                window.may_accept(first + index as u64)
            })
        };
        let replayed = in_time - u64::from(wanted.count_ones());
        device.drop_packets(DropReason::Replayed, replayed);
        let opened = self
            .aead
            .open(keypair.receive_key(), messages, &all, wanted);
        device.drop_packets(
            DropReason::BadTag,
            u64::from((wanted & !opened).count_ones()),
        );

        let accepted = accept(device, session, first, &all, opened);
        let replayed = u64::from((opened & !accepted).count_ones());
        device.drop_packets(DropReason::Replayed, replayed);
        if accepted == 0 {
            return Ok(());
        }
        let mut traffic = Traffic {
            bytes: 0,
            packets: 0,
            data: false,
        };
        for range in of(&all, accepted) {
            traffic.bytes += range.len() as u64;
            traffic.packets += 1;
            traffic.data |= range.len() > MIN_TRANSPORT_SIZE;
        }
        device.note_authentic(session, &arrival.endpoint, arrival.now, traffic, mail);
        if traffic.data {
            self.deliver(run.start, &all, accepted, session, arrival.tos, device, tun);
        }
        Ok(())
    }

    /// Judge what authentic messages hold, and hand it to the device.
    #[allow(clippy::too_many_arguments)]
    fn deliver(
        &mut self,
        start: usize,
        all: &Datagrams,
        accepted: u128,
        session: SessionRef,
        tos: u8,
        device: &Device,
        tun: &mut TunPort,
    ) {
        let mut allowed = None;
        for range in of(all, accepted) {
            let body = plaintext(range.len());
            if body.is_empty() {
                continue;
            }
            let at = start + range.start + body.start;
            let plain = &mut self.buffer[at..start + range.start + body.end];
            if let Some(size) = device.judge(session.peer, plain, tos, &mut allowed) {
                tun.coalescer().push(&self.buffer[..], at..at + size);
            }
        }
    }
}

/// Mark those of a run that were opened; which of them are new.
fn accept(
    device: &mut Device,
    session: SessionRef,
    first: u64,
    all: &Datagrams,
    opened: u128,
) -> u128 {
    if opened == all.all() && device.accept_run(session, first, all.count() as u64) {
        return opened;
    }
    members(0..all.count(), |index| {
        opened >> index & 1 == 1 && device.accept(session, first + index as u64)
    })
}

/// The set of those for which it is so.
fn members(range: Range<usize>, mut is_so: impl FnMut(usize) -> bool) -> u128 {
    range.fold(0, |set, index| set | u128::from(is_so(index)) << index)
}

/// Where the members of a set lie.
fn of(all: &Datagrams, set: u128) -> impl Iterator<Item = Range<usize>> + use<> {
    all.ranges()
        .enumerate()
        .filter(move |(index, _)| set >> index & 1 == 1)
        .map(|(_, at)| at)
}
