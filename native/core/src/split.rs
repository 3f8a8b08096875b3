//! A superpacket from the TUN device, cut straight into the datagrams of one send.
//!
//! A TCP or UDP packet of up to 64 KiB becomes as many packets as its segment size says,
//! each with complete checksums and padded, and each where it will be sealed: with room
//! for the message's header before it and for the tag behind it. Payload is copied once.
//!
//! Source: virtio 1.2 section 5.1.6, and the traps that wireguard-go's and Linux's own
//! segmentation code tell of.

use crate::checksum::{MODULUS, complement, word_sum};
use crate::constants::{TRANSPORT_HEADER_SIZE, TRANSPORT_OVERHEAD};
use crate::datagrams::{Datagrams, MAX_DATAGRAMS};
use crate::inner::{IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, Inner, addresses, padded_size};
use crate::virtio::{
    BadFrame, CWR, FIN, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, MAX_UDP_PAYLOAD, NEEDS_CSUM,
    PSH, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET, VirtioHeader,
};

/// Room for the datagrams of one send, or for one of any packet whatever.
pub const SEND_BYTES: usize = (1 << 16) + 64;

const MAX_PACKET: usize = 65_535;
const TCP_HEADER_SIZE: usize = 20;
const UDP_HEADER_SIZE: usize = 8;
const DONT_FRAGMENT: u8 = 0x40;

/// How a superpacket is cut, and how far that has come.
///
/// ```text
/// let mut split = Split::new(&header, packet, mtu, max_segments)?;
/// while let Some(datagrams) = split.fill(&mut buffer) { /* seal, send */ }
/// ```
#[derive(Clone, Debug)]
pub struct Split<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    inner: Inner,
    transport: Transport,
    /// Where the transport header begins.
    start: usize,
    segment: usize,
    mtu: usize,
    max_segments: usize,
    /// An IPv4 packet that may be fragmented needs a number of its own, this and on.
    first_number: Option<u16>,
    /// The sums of all that is the same in every segment.
    ip_sum: u32,
    transport_sum: u32,
    count: usize,
    done: usize,
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp { sequence: u32, flags: u8 },
    Udp,
}

impl<'a> Split<'a> {
    /// Look at a superpacket, one with a `gso_type`.
    ///
    /// `mtu` is the tunnel's, 0 for none; `max_segments` is `UDP_MAX_SEGMENTS`, or 1 where
    /// datagrams are sent one by one.
    ///
    /// # Errors
    /// Nothing sensible can be made of it.
    pub fn new(
        header: &VirtioHeader,
        packet: &'a [u8],
        mtu: usize,
        max_segments: usize,
    ) -> Result<Self, BadFrame> {
        let is_tcp = match header.gso_type & !GSO_ECN {
            GSO_TCPV4 | GSO_TCPV6 => true,
            GSO_UDP_L4 => false,
            _ => return Err(BadFrame),
        };
        let (start, segment) = (usize::from(header.csum_start), usize::from(header.gso_size));
        if segment == 0 || header.flags & NEEDS_CSUM == 0 || packet.len() > MAX_PACKET {
            return Err(BadFrame);
        }
        let (source, destination) = addresses(packet).ok_or(BadFrame)?;
        let is_ipv4 = source.is_ipv4();
        let ends_well = if is_ipv4 {
            start >= IPV4_HEADER_SIZE && start == usize::from(packet[0] & 0x0F) * 4
        } else {
            start >= IPV6_HEADER_SIZE
        };
        let after_ip = packet.get(start..).ok_or(BadFrame)?;
        let size = if !is_tcp {
            UDP_HEADER_SIZE
        } else if after_ip.len() < TCP_HEADER_SIZE {
            return Err(BadFrame);
        } else {
            usize::from(after_ip[12] >> 4) * 4
        };
        let least = if is_tcp {
            TCP_HEADER_SIZE
        } else {
            UDP_HEADER_SIZE
        };
        if !ends_well || size < least || size > after_ip.len() {
            return Err(BadFrame);
        }

        let (headers, payload) = packet.split_at(start + size);
        let transport_header = &headers[start..];
        let transport = if is_tcp {
            Transport::Tcp {
                sequence: be32(transport_header, 4),
                flags: transport_header[13],
            }
        } else {
            Transport::Udp
        };
        // What differs between segments is taken out, to be added again for each. The
        // checksum field counts: it holds the pseudo header's sum, of the whole's length.
        let mut transport_sum = word_sum(transport_header) + less(after_ip.len() as u32);
        transport_sum += match transport {
            Transport::Tcp { sequence, flags } => less(words(sequence)) + less(flags.into()),
            Transport::Udp => less(be16(transport_header, 4)),
        };
        let mut ip_sum = 0;
        let mut first_number = None;
        if is_ipv4 {
            let ip = &headers[..start];
            // The identification of a packet that nobody may fragment means nothing (RFC
            // 6864), and one that stays the same spares work.
            ip_sum = word_sum(ip) + less(be16(ip, 2)) + less(be16(ip, 10));
            if ip[6] & DONT_FRAGMENT == 0 {
                ip_sum += less(be16(ip, 4));
                first_number = Some(be16(ip, 4) as u16);
            }
        }
        Ok(Self {
            headers,
            payload,
            inner: Inner {
                length: headers.len() + payload.len().min(segment),
                source,
                destination,
            },
            transport,
            start,
            segment,
            mtu,
            max_segments: max_segments.clamp(1, MAX_DATAGRAMS),
            first_number,
            ip_sum,
            transport_sum,
            count: payload.len().div_ceil(segment).max(1),
            done: 0,
        })
    }

    /// The header of the first segment, the longest: all have the same addresses.
    #[must_use]
    pub fn inner(&self) -> Inner {
        self.inner
    }

    /// How many segments there are, sent or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Of the longest datagram, in bytes.
    #[must_use]
    pub fn largest(&self) -> usize {
        padded_size(self.inner.length, self.mtu) + TRANSPORT_OVERHEAD
    }

    /// Make the datagrams of the next send, ready to be sealed; None when all are made.
    ///
    /// Their headers and tags are left as they were, to be written in sealing.
    pub fn fill(&mut self, out: &mut [u8; SEND_BYTES]) -> Option<Datagrams> {
        let (mut filled, mut made, mut stride) = (0, 0, 0);
        while self.done < self.count && made < self.max_segments {
            let from = self.done * self.segment;
            let piece = &self.payload[from..self.payload.len().min(from + self.segment)];
            let padded = padded_size(self.headers.len() + piece.len(), self.mtu);
            let size = padded + TRANSPORT_OVERHEAD;
            if made > 0 && filled + size > MAX_UDP_PAYLOAD {
                break;
            }
            let plain = &mut out[filled + TRANSPORT_HEADER_SIZE..][..padded];
            self.write_segment(self.done, piece, plain);
            if made == 0 {
                stride = size;
            }
            filled += size;
            made += 1;
            self.done += 1;
        }
        Datagrams::covering(filled, stride)
    }

    /// Write one packet and its padding over `out`.
    #[inline]
    fn write_segment(&self, index: usize, piece: &[u8], out: &mut [u8]) {
        let (headers, rest) = out.split_at_mut(self.headers.len());
        let (payload, padding) = rest.split_at_mut(piece.len());
        headers.copy_from_slice(self.headers);
        payload.copy_from_slice(piece);
        padding.fill(0);

        let (ip, transport) = headers.split_at_mut(self.start);
        let length = transport.len() + piece.len();
        let mut sum = self.transport_sum + length as u32 + word_sum(piece);
        if self.inner.source.is_ipv4() {
            let total = (self.start + length) as u16;
            put16(ip, 2, total);
            let mut ip_sum = self.ip_sum + u32::from(total);
            if let Some(first) = self.first_number {
                let number = first.wrapping_add(index as u16);
                put16(ip, 4, number);
                ip_sum += u32::from(number);
            }
            put16(ip, 10, complement(ip_sum));
        } else {
            put16(ip, 4, (self.start - IPV6_HEADER_SIZE + length) as u16);
        }
        match self.transport {
            Transport::Tcp {
                sequence,
                mut flags,
            } => {
                let sequence = sequence.wrapping_add((index * self.segment) as u32);
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                if index > 0 {
                    flags &= !CWR;
                }
                if index + 1 < self.count {
                    flags &= !(FIN | PSH);
                }
                transport[13] = flags;
                sum += words(sequence) + u32::from(flags);
                put16(transport, TCP_CHECKSUM_OFFSET.into(), complement(sum));
            }
            Transport::Udp => {
                put16(transport, 4, length as u16);
                sum += length as u32;
                let sum = match complement(sum) {
                    0 => MODULUS as u16, // 0 would mean "no checksum"
                    sum => sum,
                };
                put16(transport, UDP_CHECKSUM_OFFSET.into(), sum);
            }
        }
    }
}

/// What takes a number below 2^18 out of a sum.
fn less(number: u32) -> u32 {
    4 * MODULUS - number
}

/// The sum of the words of a 32-bit number.
fn words(number: u32) -> u32 {
    (number >> 16) + (number & 0xFFFF)
}

fn be16(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    be16(bytes, at) << 16 | be16(bytes, at + 2)
}

fn put16(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}
