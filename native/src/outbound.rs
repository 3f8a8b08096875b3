//! From the TUN device to the peers.

use nvpn_core::aead::{BatchAead, RingAead};
use nvpn_core::constants::{TAG_SIZE, TRANSPORT_HEADER_SIZE, TRANSPORT_OVERHEAD};
use nvpn_core::datagrams::Datagrams;
use nvpn_core::inner::{outer_tos, padded_size, parse_inner, traffic_class};
use nvpn_core::lane::Entrance;
use nvpn_core::secret::KEY_SIZE;
use nvpn_core::split::{SEND_BYTES, Split};
use nvpn_core::virtio::{
    BadFrame, GSO_ECN, MAX_UDP_PAYLOAD, VIRTIO_HEADER_SIZE, VirtioHeader, complete_checksum,
};
use nvpn_core::{DropReason, Instant, PeerRef, Sending, Traffic};
use zeroize::Zeroize;

use crate::common::Common;
use crate::mail::note_outcome;
use crate::tun::MAX_FRAME;
use crate::worker::Tools;

const FRAMES_AT_ONCE: usize = 64;

/// Reads packets, seals and sends them.
///
/// A superpacket is cut and sealed as one batch. Packets that come alone and one after
/// the other to the same peer are a batch, too.
pub struct Outbound {
    frame: Box<[u8; MAX_FRAME]>,
    sealer: Sealer,
    max_segments: usize,
}

/// What has become of a look at the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that were read.
    pub bytes: usize,
    /// Frames that were read.
    pub frames: usize,
    /// Those of them that are one packet.
    pub singles: usize,
    /// There may be more.
    pub more: bool,
}

impl Outbound {
    /// `batches`: whether packets may be sealed several at a time. `max_segments` is
    /// UDP_MAX_SEGMENTS.
    pub fn new(batches: bool, max_segments: usize) -> Self {
        Self {
            frame: Box::new([0; MAX_FRAME]),
            sealer: Sealer {
                gathered: Box::new([0; 2 * SEND_BYTES]),
                batches: Vec::with_capacity(FRAMES_AT_ONCE + 1),
                big: Box::new([0; SEND_BYTES]),
                big_key: Box::new([0; KEY_SIZE]),
                aead: RingAead,
            },
            max_segments: if batches { max_segments } else { 1 },
        }
    }

    /// Send what a queue of the device has: single packets up to a superpacket, or one
    /// superpacket. Reading happens in the entrance, sending in the ticket's turn,
    /// ciphers work between the two.
    pub fn run(
        &mut self,
        queue: usize,
        entrance: Entrance<'_>,
        common: &Common,
        tools: &mut Tools,
    ) -> Moved {
        let Self {
            frame,
            sealer,
            max_segments,
        } = self;
        let mut moved = Moved {
            more: true,
            ..Moved::default()
        };
        let mut now = 0;
        let mut big_frame = None;
        while moved.frames < FRAMES_AT_ONCE && sealer.has_room() {
            let size = tools.tun.read(queue, frame);
            if size == 0 {
                moved.more = false;
                break;
            }
            moved.bytes += size;
            moved.frames += 1;
            now = common.shared.now();
            match Frame::parse(&mut frame[..size], tools.tun.vnet_hdr()) {
                Ok(Frame::Packet(packet)) => {
                    moved.singles += 1;
                    sealer.gather(packet, *max_segments, now, common, tools);
                }
                Ok(Frame::Superpacket(header)) => {
                    big_frame = Some((header, size));
                    break;
                }
                Err(BadFrame) => common.shared.drops.add(DropReason::BadInner, 1),
            }
        }
        if moved.frames == 0 {
            return moved;
        }
        let mut superpacket = None;
        if let Some((header, size)) = big_frame {
            let packet = &frame[VIRTIO_HEADER_SIZE..size];
            let mtu = common.with_device(|device| device.mtu());
            match Split::new(&header, packet, mtu, *max_segments) {
                Ok(split) => {
                    let tos = outer_tos(traffic_class(packet));
                    superpacket = Some(Superpacket { split, tos, packet });
                }
                Err(BadFrame) => common.shared.drops.add(DropReason::BadInner, 1),
            }
        }
        sealer.reserve(now, common);
        let sending = superpacket
            .as_ref()
            .and_then(|one| sealer.reserve_big(one, now, common));
        if sealer.batches.is_empty() && superpacket.is_none() {
            return moved;
        }

        let ticket = entrance.take_ticket();
        sealer.seal();
        let mut big = superpacket
            .as_mut()
            .and_then(|one| sealer.fill_big(&mut one.split, sending));
        if !ticket.wait() {
            sealer.forget();
            return moved;
        }
        sealer.send(now, common, tools);
        while let (Some(batch), Some(one)) = (big, superpacket.as_mut()) {
            sealer.send_big(&batch, one.tos, now, common, tools);
            big = sealer.fill_big(&mut one.split, batch.following());
        }
        sealer.forget();
        moved
    }
}

/// What a read of the device gives.
enum Frame<'a> {
    Packet(&'a [u8]),
    Superpacket(VirtioHeader),
}

struct Superpacket<'a> {
    split: Split<'a>,
    tos: u8,
    packet: &'a [u8],
}

impl<'a> Frame<'a> {
    fn parse(frame: &'a mut [u8], vnet_hdr: bool) -> Result<Self, BadFrame> {
        if !vnet_hdr {
            return Ok(Self::Packet(frame));
        }
        let header = VirtioHeader::parse(frame)?;
        let packet = &mut frame[VIRTIO_HEADER_SIZE..];
        if header.gso_type & !GSO_ECN != 0 {
            return Ok(Self::Superpacket(header));
        }
        complete_checksum(&header, packet)?;
        Ok(Self::Packet(packet))
    }
}

/// Packets, each where it is sealed, and what they are sealed with.
struct Sealer {
    /// Single packets, batch after batch: up to one send's worth, and one packet more.
    gathered: Box<[u8; 2 * SEND_BYTES]>,
    batches: Vec<Gathered>,
    /// The datagrams of a superpacket.
    big: Box<[u8; SEND_BYTES]>,
    big_key: Box<[u8; KEY_SIZE]>,
    aead: RingAead,
}

/// Single packets to one peer that leave in one send.
struct Gathered {
    peer: PeerRef,
    tos: u8,
    start: usize,
    datagrams: Datagrams,
    /// `None` when there are not enough counters, or for lack of a key by now.
    sending: Option<Sending>,
    /// Written, used and zeroed where it lies.
    key: [u8; KEY_SIZE],
}

/// A part of a superpacket.
#[derive(Clone, Copy)]
struct Part {
    peer: Option<PeerRef>,
    sending: Option<Sending>,
    datagrams: Datagrams,
}

impl Part {
    /// What the next part of the same superpacket is sent with.
    fn following(&self) -> Option<(PeerRef, Sending)> {
        let first_counter =
            |sending: Sending| sending.first_counter + self.datagrams.count() as u64;
        let sending = self.sending.map(|sending| Sending {
            first_counter: first_counter(sending),
            ..sending
        });
        self.peer.zip(sending)
    }
}

impl Sealer {
    /// Whether one more packet can be gathered, however long it is.
    fn has_room(&self) -> bool {
        self.used() <= SEND_BYTES
    }

    fn used(&self) -> usize {
        self.batches
            .last()
            .map_or(0, |last| last.start + last.datagrams.size())
    }

    /// Put a packet where it will be sealed, if its way is free.
    fn gather(
        &mut self,
        packet: &[u8],
        max_segments: usize,
        now: Instant,
        common: &Common,
        tools: &mut Tools,
    ) {
        let Some(inner) = parse_inner(packet) else {
            common.shared.drops.add(DropReason::BadInner, 1);
            return;
        };
        let way = common.with_device(|device| {
            let peer = match device.route(packet, &inner) {
                Ok(peer) => peer,
                Err(reason) => {
                    device.refuse(packet, reason, now, &mut tools.mail);
                    tools.deliver_mail(device, now);
                    return None;
                }
            };
            if !device.fits(peer, inner.length) {
                device.drop_packets(DropReason::TooBig, 1);
                return None;
            }
            if !device.may_send(peer, now) {
                device.stage(peer, &packet[..inner.length]);
                return None;
            }
            let packet = &packet[..inner.length];
            device.remember(peer, inner.source, inner.destination, packet, now);
            Some((peer, padded_size(inner.length, device.mtu())))
        });
        let Some((peer, padded)) = way else { return };
        let packet = &packet[..inner.length];
        let tos = outer_tos(traffic_class(packet));
        let (start, size) = (self.used(), padded + TRANSPORT_OVERHEAD);
        let joined = self.batches.last_mut().is_some_and(|last| {
            (last.peer, last.tos) == (peer, tos) && last.datagrams.push(size, max_segments)
        });
        if !joined {
            let Some(datagrams) = Datagrams::covering(size, size) else {
                return;
            };
            self.batches.push(Gathered {
                peer,
                tos,
                start,
                datagrams,
                sending: None,
                key: [0; KEY_SIZE],
            });
        }
        let plain = &mut self.gathered[start + TRANSPORT_HEADER_SIZE..start + size - TAG_SIZE];
        let (room, padding) = plain.split_at_mut(packet.len());
        room.copy_from_slice(packet);
        padding.fill(0);
    }

    // --- keys and counters, in the order of reading -------------------------------------

    fn reserve(&mut self, now: Instant, common: &Common) {
        if self.batches.is_empty() {
            return;
        }
        common.with_device(|device| {
            for batch in &mut self.batches {
                let count = batch.datagrams.count() as u64;
                batch.sending = device.begin_send(batch.peer, count, now, &mut batch.key);
            }
        });
    }

    fn reserve_big(
        &mut self,
        superpacket: &Superpacket<'_>,
        now: Instant,
        common: &Common,
    ) -> Option<(PeerRef, Sending)> {
        let Superpacket { split, packet, .. } = superpacket;
        if split.largest() > MAX_UDP_PAYLOAD {
            return None;
        }
        let count = split.count() as u64;
        common.with_device(|device| {
            let inner = split.inner();
            let peer = device.route(packet, &inner).ok()?;
            let sending = device.begin_send(peer, count, now, &mut self.big_key)?;
            device.remember(peer, inner.source, inner.destination, packet, now);
            Some((peer, sending))
        })
    }

    // --- ciphers, side by side ----------------------------------------------------------

    fn seal(&mut self) {
        for batch in &mut self.batches {
            let Some(sending) = batch.sending else {
                continue;
            };
            let buffer = &mut self.gathered[batch.start..][..batch.datagrams.size()];
            seal(&self.aead, &batch.key, &sending, buffer, &batch.datagrams);
        }
    }

    /// Make and seal the next part of a superpacket, if there is one.
    fn fill_big(
        &mut self,
        split: &mut Split<'_>,
        sending: Option<(PeerRef, Sending)>,
    ) -> Option<Part> {
        let datagrams = split.fill(&mut self.big)?;
        let (peer, sending) = sending.unzip();
        if let Some(sending) = sending {
            let buffer = &mut self.big[..datagrams.size()];
            seal(&self.aead, &self.big_key, &sending, buffer, &datagrams);
        }
        Some(Part {
            peer,
            sending,
            datagrams,
        })
    }

    // --- sending, in the order of reading -----------------------------------------------

    fn send(&mut self, now: Instant, common: &Common, tools: &mut Tools) {
        for batch in &self.batches {
            let buffer = &self.gathered[batch.start..][..batch.datagrams.size()];
            let to = batch.sending.map(|sending| (batch.peer, sending));
            send(buffer, &batch.datagrams, to, batch.tos, now, common, tools);
        }
    }

    fn send_big(&mut self, part: &Part, tos: u8, now: Instant, common: &Common, tools: &mut Tools) {
        let buffer = &self.big[..part.datagrams.size()];
        let to = part.peer.zip(part.sending);
        send(buffer, &part.datagrams, to, tos, now, common, tools);
    }

    /// No key outlives the batch that it sealed.
    fn forget(&mut self) {
        for batch in &mut self.batches {
            batch.key.zeroize();
        }
        self.batches.clear();
        self.big_key.zeroize();
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.forget();
    }
}

fn seal(
    aead: &impl BatchAead,
    key: &[u8; KEY_SIZE],
    sending: &Sending,
    buffer: &mut [u8],
    datagrams: &Datagrams,
) {
    let sealed = aead.seal(
        key,
        &sending.header,
        sending.first_counter,
        buffer,
        datagrams,
    );
    if sealed.is_err() {
        // The batch lies in the buffer and has its counters: never. But whatever happens,
        // what leaves is no plaintext.
        buffer.fill(0);
    }
}

/// Send a batch that is sealed, or, without anybody it was sealed for, go the plain way.
fn send(
    buffer: &[u8],
    datagrams: &Datagrams,
    to: Option<(PeerRef, Sending)>,
    tos: u8,
    now: Instant,
    common: &Common,
    tools: &mut Tools,
) {
    let Some((peer, sending)) = to else {
        return send_singly(buffer, datagrams, now, common, tools);
    };
    let outcome = tools
        .udp
        .send(&sending.endpoint, buffer, datagrams.stride(), tos, now);
    let traffic = Traffic {
        bytes: datagrams.size() as u64,
        packets: datagrams.count() as u64,
        data: true,
    };
    common.with_device(|device| {
        device.note_sent(peer, now, traffic);
        if outcome != Default::default() {
            note_outcome(device, Some(sending.peer), &outcome);
        }
    });
}

/// The plain way for packets that lie ready to be sealed.
#[cold]
fn send_singly(
    buffer: &[u8],
    datagrams: &Datagrams,
    now: Instant,
    common: &Common,
    tools: &mut Tools,
) {
    common.with_device(|device| {
        for range in datagrams.ranges() {
            let plain = &buffer[range.start + TRANSPORT_HEADER_SIZE..range.end - TAG_SIZE];
            device.send_inner(plain, now, &mut tools.mail);
        }
        tools.deliver_mail(device, now);
    });
}
