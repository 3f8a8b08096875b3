//! Many packets of one flow as one: what a TUN device takes in a single write.
//!
//! The kernel then walks its stack once for 64 KiB instead of once for each packet.
//! Packets of a flow keep their order; packets are merged only when the kernel's own
//! generic receive offload would: equal in everything but what counts them. They stay
//! where they are: a write gathers a new head and the pieces behind it.
//!
//! The transport checksums of merged packets are not verified, and will not be by the
//! kernel: their bytes are authentic, which is why the kernel's WireGuard skips the sum
//! too. With [`Offers::partial`] that holds for those that stay alone as well.
//!
//! Source: Linux's `inet_gro_receive`, `ipv6_gro_receive`, `tcp_gro_receive`,
//! `udp_gro_receive`.

use core::ops::Range;

use crate::checksum::{MODULUS, complement, pseudo_sum, word_sum};
use crate::inner::{IPV4_HEADER_SIZE, IPV6_HEADER_SIZE};
use crate::virtio::{
    ACK, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, NO_OFFLOAD, PSH, TCP,
    TCP_CHECKSUM_OFFSET, UDP, UDP_CHECKSUM_OFFSET, VIRTIO_HEADER_SIZE, VirtioHeader,
};

/// Of an IP packet, in bytes.
pub const MAX_PACKET: usize = 65_535;
/// `UDP_MAX_SEGMENTS` of kernels before 6.10; what is longer they refuse with EINVAL.
pub const MAX_UDP_SEGMENTS: usize = 64;
/// Room for what a write begins with: the virtio-net header and the longest headers.
pub const HEAD_BYTES: usize = 128;

const MAX_TCP_HEADER: usize = 60;
const _: () = assert!(HEAD_BYTES >= VIRTIO_HEADER_SIZE + IPV6_HEADER_SIZE + MAX_TCP_HEADER);

/// What the device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// Merged TCP.
    pub tso: bool,
    /// Merged UDP.
    pub uso: bool,
    /// Packets that stay alone with a checksum left to the kernel, which then neither
    /// verifies it nor, for itself, computes it.
    pub partial: bool,
}

/// Takes packets in their order and merges what can be merged; keeps its memory.
#[derive(Debug)]
pub struct Coalescer {
    offers: Offers,
    trains: Vec<Train>,
    packets: Vec<Packet>,
    /// The train that may grow, of each flow: indices into `trains`.
    growing: Vec<usize>,
}

/// Packets of one flow, merged so far.
#[derive(Clone, Copy, Debug)]
struct Train {
    /// None for what is never merged.
    shape: Option<Shape>,
    next_sequence: u32,
    segment: usize,
    size: usize,
    open: bool,
    count: usize,
    /// Indices into `packets`, and where the first one lies: every packet is compared to it.
    first: u32,
    last: u32,
    head: Packet,
}

/// Where a packet lies, and which one of its train is the next ([`NO_PACKET`]: none).
#[derive(Clone, Copy, Debug)]
struct Packet {
    start: u32,
    end: u32,
    next: u32,
}

const NO_PACKET: u32 = u32::MAX;

impl Packet {
    fn at(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Of a packet that could be a part of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    is_tcp: bool,
    /// Where the transport header begins, and where it ends.
    start: usize,
    head_size: usize,
}

struct Segment {
    shape: Shape,
    sequence: u32,
    payload: usize,
    /// Nothing may be appended (PSH).
    ends: bool,
}

impl Coalescer {
    /// For a device that takes this.
    #[must_use]
    pub fn new(offers: Offers) -> Self {
        Self {
            offers,
            trains: Vec::with_capacity(128),
            packets: Vec::with_capacity(128),
            growing: Vec::with_capacity(128),
        }
    }

    /// The device takes this from now on.
    pub fn set_offers(&mut self, offers: Offers) {
        self.offers = offers;
    }

    /// What the device takes.
    #[must_use]
    pub fn offers(&self) -> Offers {
        self.offers
    }

    /// Begin anew.
    pub fn clear(&mut self) {
        self.trains.clear();
        self.packets.clear();
        self.growing.clear();
    }

    /// Take the packet that lies at `at` in `buffer`.
    ///
    /// It is past [`crate::inner::parse_inner`] and cut to its length. Until the next
    /// [`Self::clear`] all packets are in the same buffer and stay as they are.
    pub fn push(&mut self, buffer: &[u8], at: Range<usize>) {
        let Some(packet) = buffer.get(at.clone()) else {
            return;
        };
        let (Ok(start), Ok(end)) = (at.start.try_into(), at.end.try_into()) else {
            return;
        };
        let index = self.packets.len() as u32;
        let head = Packet {
            start,
            end,
            next: NO_PACKET,
        };
        let train = match recognise(packet, self.offers) {
            Some(segment) => self.join_or_found(buffer, packet, &segment, index, head),
            None => {
                // What it belongs to is unknown here: nothing may overtake it.
                self.growing.clear();
                Some(Train {
                    shape: None,
                    next_sequence: 0,
                    segment: 0,
                    size: packet.len(),
                    open: false,
                    count: 1,
                    first: index,
                    last: index,
                    head,
                })
            }
        };
        self.packets.push(head);
        self.trains.extend(train);
    }

    /// Append the packet to its flow's train, or return the train that begins with it.
    #[inline]
    fn join_or_found(
        &mut self,
        buffer: &[u8],
        packet: &[u8],
        segment: &Segment,
        index: u32,
        head: Packet,
    ) -> Option<Train> {
        let mut of_flow = None;
        for slot in self.growing.iter_mut().rev() {
            let train = &mut self.trains[*slot];
            let first = &buffer[train.head.at()];
            if !is_same_flow(first, packet, segment.shape) {
                continue;
            }
            if train.may_take(segment) && is_alike(first, packet, segment.shape) {
                self.packets[train.last as usize].next = index;
                train.last = index;
                train.count += 1;
                train.size += segment.payload;
                train.next_sequence = segment.next_sequence();
                train.open = !segment.ends && segment.payload == train.segment;
                return None;
            }
            of_flow = Some(slot);
            break;
        }
        let founded = self.trains.len();
        match of_flow {
            Some(slot) => *slot = founded,
            None => self.growing.push(founded),
        }
        Some(Train {
            shape: Some(segment.shape),
            next_sequence: segment.next_sequence(),
            segment: segment.payload,
            size: packet.len(),
            open: !segment.ends && segment.payload > 0,
            count: 1,
            first: index,
            last: index,
            head,
        })
    }

    /// How many writes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trains.len()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// The write with this number; its first bytes are made in `head`.
    ///
    /// None past the last one.
    pub fn write<'a>(
        &'a self,
        index: usize,
        buffer: &'a [u8],
        head: &'a mut [u8; HEAD_BYTES],
    ) -> Option<TunWrite<'a>> {
        let train = self.trains.get(index)?;
        let first = buffer.get(train.head.at())?;
        let last = buffer.get(self.packets[train.last as usize].at())?;
        let room = &mut head[VIRTIO_HEADER_SIZE..];
        let (virtio, taken) = match train.shape {
            Some(shape) if train.count > 1 => merge_heads(train, shape, first, last, room),
            _ if self.offers.partial => leave_checksum(first, room),
            _ => None,
        }
        .unwrap_or((NO_OFFLOAD, 0));
        head[..VIRTIO_HEADER_SIZE].copy_from_slice(&virtio);
        Some(TunWrite {
            head: &head[..VIRTIO_HEADER_SIZE + taken],
            count: train.count,
            packets: Pieces {
                packets: &self.packets,
                buffer,
                next: train.first,
                skip: 0,
            },
            taken,
        })
    }
}

impl Train {
    fn may_take(&self, segment: &Segment) -> bool {
        self.open
            && self.shape == Some(segment.shape)
            && (1..=self.segment).contains(&segment.payload)
            && self.size + segment.payload <= MAX_PACKET
            && if segment.shape.is_tcp {
                segment.sequence == self.next_sequence
            } else {
                self.count < MAX_UDP_SEGMENTS
            }
    }
}

impl Segment {
    fn next_sequence(&self) -> u32 {
        self.sequence.wrapping_add(self.payload as u32)
    }
}

/// One write: `head`, then [`TunWrite::pieces`], one behind the other.
#[derive(Clone, Debug)]
pub struct TunWrite<'a> {
    /// The virtio-net header, and headers that were made anew.
    pub head: &'a [u8],
    /// How many packets it holds.
    pub count: usize,
    packets: Pieces<'a>,
    /// How many bytes of each packet `head` stands for.
    taken: usize,
}

impl<'a> TunWrite<'a> {
    /// What follows `head`: one piece of each packet; of a bare header an empty one.
    #[must_use]
    pub fn pieces(&self) -> Pieces<'a> {
        Pieces {
            skip: self.taken,
            ..self.packets.clone()
        }
    }

    /// The packets as they came, to be written behind [`NO_OFFLOAD`] one by one when the
    /// kernel refuses the whole.
    #[must_use]
    pub fn packets(&self) -> Pieces<'a> {
        self.packets.clone()
    }
}

/// The packets of a write, or what is left of them.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    packets: &'a [Packet],
    buffer: &'a [u8],
    next: u32,
    skip: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let packet = self.packets.get(self.next as usize)?;
        self.next = packet.next;
        let Range { start, end } = packet.at();
        self.buffer.get(start + self.skip..end)
    }
}

/// What decides whether a packet may be merged; None if it never may.
#[inline]
fn recognise(packet: &[u8], offers: Offers) -> Option<Segment> {
    let (protocol, start) = match packet.first()? >> 4 {
        4 => {
            let head: &[u8; 28] = packet.first_chunk()?;
            // Nobody may fragment it, and it is no fragment: then its number means nothing.
            if head[0] != 0x45 || head[6] != 0x40 || head[7] != 0 || !is_whole(head) {
                return None;
            }
            (head[9], IPV4_HEADER_SIZE)
        }
        6 if packet.len() >= 48 => (packet[6], IPV6_HEADER_SIZE),
        _ => return None,
    };
    match protocol {
        TCP if offers.tso => recognise_tcp(packet, start),
        UDP if offers.uso => recognise_udp(packet, start),
        _ => None,
    }
}

/// Whether an IPv4 header's checksum is right.
#[inline]
fn is_whole(head: &[u8; 28]) -> bool {
    let sum: u64 = head[..IPV4_HEADER_SIZE]
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    sum.is_multiple_of(MODULUS.into())
}

#[inline]
fn recognise_tcp(packet: &[u8], start: usize) -> Option<Segment> {
    let head: &[u8; 20] = packet.get(start..)?.first_chunk()?;
    let head_size = start + usize::from(head[12] >> 4) * 4;
    let flags = head[13];
    if head_size < start + 20 || flags & !PSH != ACK || head[12] & 0x0F != 0 {
        return None;
    }
    Some(Segment {
        shape: Shape {
            is_tcp: true,
            start,
            head_size,
        },
        sequence: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
        payload: packet.len().checked_sub(head_size)?,
        ends: flags & PSH != 0,
    })
}

#[inline]
fn recognise_udp(packet: &[u8], start: usize) -> Option<Segment> {
    let datagram = packet.get(start..)?;
    let head: &[u8; 8] = datagram.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if length != datagram.len() || (head[6] == 0 && head[7] == 0) {
        return None;
    }
    Some(Segment {
        shape: Shape {
            is_tcp: false,
            start,
            head_size: start + 8,
        },
        sequence: 0,
        payload: length - 8,
        ends: false,
    })
}

/// Whether two recognised packets have the same addresses, ports and protocol.
#[inline]
fn is_same_flow(first: &[u8], packet: &[u8], shape: Shape) -> bool {
    if first[0] >> 4 != packet[0] >> 4 {
        return false;
    }
    if shape.start == IPV4_HEADER_SIZE {
        first[9] == packet[9] && first[12..24] == packet[12..24]
    } else {
        first[6] == packet[6] && first[8..44] == packet[8..44]
    }
}

/// Whether all else is equal that must be within a train; the shapes are.
#[inline]
fn is_alike(first: &[u8], packet: &[u8], shape: Shape) -> bool {
    let Shape {
        is_tcp,
        start,
        head_size,
    } = shape;
    let ip_alike = if start == IPV4_HEADER_SIZE {
        first[1] == packet[1] && first[8] == packet[8]
    } else {
        first[..4] == packet[..4] && first[7] == packet[7]
    };
    if !ip_alike || !is_tcp {
        return ip_alike;
    }
    let (a, b) = (&first[start..head_size], &packet[start..head_size]);
    // Acknowledgement, data offset | window | urgent pointer, options.
    a[8..13] == b[8..13] && a[14..16] == b[14..16] && a[18..] == b[18..]
}

/// Make the headers of a whole train in `room`; the virtio-net header, and their size.
fn merge_heads(
    train: &Train,
    shape: Shape,
    first: &[u8],
    last: &[u8],
    room: &mut [u8],
) -> Option<([u8; VIRTIO_HEADER_SIZE], usize)> {
    let Shape {
        is_tcp,
        start,
        head_size,
    } = shape;
    let head = room.get_mut(..head_size)?;
    head.copy_from_slice(first.get(..head_size)?);
    let is_ipv4 = start == IPV4_HEADER_SIZE;
    if is_ipv4 {
        put16(head, 2, train.size as u16);
        put16(head, 10, 0);
        let sum = complement(word_sum(&head[..start]));
        put16(head, 10, sum);
    } else {
        put16(head, 4, (train.size - IPV6_HEADER_SIZE) as u16);
    }
    if is_tcp {
        head[start + 13] |= last.get(start + 13)? & PSH;
    } else {
        put16(head, start + 4, (train.size - start) as u16);
    }
    let gso_type = match (is_tcp, is_ipv4) {
        (false, _) => GSO_UDP_L4,
        (true, true) => GSO_TCPV4,
        (true, false) => GSO_TCPV6,
    };
    Some((
        partial(
            head,
            shape,
            train.size,
            gso_type,
            train.segment.try_into().ok()?,
        ),
        head_size,
    ))
}

/// Leave the checksum of a TCP or UDP packet to the kernel, in a copy of its headers.
///
/// None if it is neither, a part of one, or has no checksum; or options, among which a source
/// route would change what the sum is over.
fn leave_checksum(packet: &[u8], room: &mut [u8]) -> Option<([u8; VIRTIO_HEADER_SIZE], usize)> {
    let ip: &[u8; IPV4_HEADER_SIZE] = packet.first_chunk()?;
    let (protocol, start) = match ip[0] >> 4 {
        4 if ip[0] == 0x45 && ip[6] & 0xBF == 0 && ip[7] == 0 => (ip[9], IPV4_HEADER_SIZE),
        6 => (ip[6], IPV6_HEADER_SIZE),
        _ => return None,
    };
    let transport = packet.get(start..)?;
    let (is_tcp, size) = match protocol {
        TCP => (true, usize::from(transport.get(12)? >> 4) * 4),
        UDP => {
            let udp: &[u8; 8] = transport.first_chunk()?;
            let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
            if length != transport.len() || (udp[6] == 0 && udp[7] == 0) {
                return None;
            }
            (false, 8)
        }
        _ => return None,
    };
    if is_tcp && size < 20 {
        return None;
    }
    let head_size = start + size;
    let head = room.get_mut(..head_size)?;
    head.copy_from_slice(packet.get(..head_size)?);
    let shape = Shape {
        is_tcp,
        start,
        head_size,
    };
    Some((partial(head, shape, packet.len(), GSO_NONE, 0), head_size))
}

/// Write the pseudo header's sum where the transport checksum goes, as `CHECKSUM_PARTIAL`
/// wants it, and say so.
fn partial(
    head: &mut [u8],
    shape: Shape,
    size: usize,
    gso_type: u8,
    gso_size: u16,
) -> [u8; VIRTIO_HEADER_SIZE] {
    let Shape {
        is_tcp,
        start,
        head_size,
    } = shape;
    let (protocol, csum_offset) = if is_tcp {
        (TCP, TCP_CHECKSUM_OFFSET)
    } else {
        (UDP, UDP_CHECKSUM_OFFSET)
    };
    let addresses = if head[0] >> 4 == 4 { 12..20 } else { 8..40 };
    let mut sum = pseudo_sum(&head[addresses], protocol, (size - start) as u32) % MODULUS;
    if sum == 0 && !is_tcp {
        sum = MODULUS; // 0 would mean "no checksum"
    }
    put16(head, start + usize::from(csum_offset), sum as u16);
    VirtioHeader {
        flags: NEEDS_CSUM,
        gso_type,
        header_length: head_size as u16,
        gso_size,
        csum_start: start as u16,
        csum_offset,
    }
    .pack()
}

fn put16(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}
