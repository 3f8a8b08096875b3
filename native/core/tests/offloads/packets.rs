//! TCP and UDP packets, and the superpackets that a kernel makes of them, from the RFCs.

use nvpn_core::virtio::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

/// One direction of a conversation: what its packets have in common.
#[derive(Clone, Debug)]
pub struct Flow {
    pub is_ipv4: bool,
    pub is_tcp: bool,
    pub port: u16,
    pub tos: u8,
    pub ttl: u8,
    pub window: u16,
    pub acknowledgement: u32,
    pub options: Vec<u8>,
    pub dont_fragment: bool,
    pub number: u16,
}

pub fn flow(is_ipv4: bool, is_tcp: bool) -> Flow {
    Flow {
        is_ipv4,
        is_tcp,
        port: 5201,
        tos: 0,
        ttl: 64,
        window: 502,
        acknowledgement: 7,
        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        dont_fragment: true,
        number: 0x1234,
    }
}

pub fn flows() -> [Flow; 4] {
    [
        flow(true, true),
        flow(true, false),
        flow(false, true),
        flow(false, false),
    ]
}

pub fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// RFC 1071, word by word.
pub fn checksum(data: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in data.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

impl Flow {
    pub fn start(&self) -> usize {
        if self.is_ipv4 { 20 } else { 40 }
    }

    pub fn head_size(&self) -> usize {
        self.start()
            + if self.is_tcp {
                20 + self.options.len()
            } else {
                8
            }
    }

    fn field(&self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    /// A whole packet with right checksums.
    pub fn packet(&self, payload: &[u8], sequence: u32, flags: u8) -> Vec<u8> {
        self.numbered(payload, sequence, flags, self.number)
    }

    fn numbered(&self, payload: &[u8], sequence: u32, flags: u8, number: u16) -> Vec<u8> {
        let mut transport = self.transport(payload, sequence, flags);
        let mut summed = self.pseudo(transport.len());
        summed.extend(&transport);
        let sum = match checksum(&summed) {
            0 if !self.is_tcp => 0xFFFF,
            sum => sum,
        };
        let field = self.field();
        transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = self.network(transport.len(), number);
        packet.extend(transport);
        packet
    }

    /// As a kernel hands it over: in one, with the pseudo header's sum only.
    pub fn superpacket(
        &self,
        payload: &[u8],
        gso_size: u16,
        sequence: u32,
        flags: u8,
    ) -> (VirtioHeader, Vec<u8>) {
        let mut transport = self.transport(payload, sequence, flags);
        let field = self.field();
        let sum = !checksum(&self.pseudo(transport.len()));
        transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let gso_type = match (self.is_tcp, self.is_ipv4) {
            (false, _) => GSO_UDP_L4,
            (true, true) => GSO_TCPV4,
            (true, false) => GSO_TCPV6,
        };
        let header = VirtioHeader {
            flags: NEEDS_CSUM,
            gso_type,
            header_length: self.head_size() as u16,
            gso_size,
            csum_start: self.start() as u16,
            csum_offset: field as u16,
        };
        let mut packet = self.network(transport.len(), self.number);
        packet.extend(transport);
        (header, packet)
    }

    /// What a superpacket must become.
    pub fn segments(
        &self,
        payload: &[u8],
        gso_size: u16,
        sequence: u32,
        flags: u8,
    ) -> Vec<Vec<u8>> {
        let size = usize::from(gso_size);
        let count = payload.len().div_ceil(size).max(1);
        (0..count)
            .map(|index| {
                let piece = &payload[index * size..payload.len().min((index + 1) * size)];
                let mut kept = flags;
                if index > 0 {
                    kept &= !CWR;
                }
                if index + 1 < count {
                    kept &= !(FIN | PSH);
                }
                let step = if self.dont_fragment { 0 } else { index as u16 };
                self.numbered(
                    piece,
                    sequence.wrapping_add((index * size) as u32),
                    kept,
                    self.number.wrapping_add(step),
                )
            })
            .collect()
    }

    fn transport(&self, payload: &[u8], sequence: u32, flags: u8) -> Vec<u8> {
        let mut bytes = 40_000_u16.to_be_bytes().to_vec();
        bytes.extend(self.port.to_be_bytes());
        if self.is_tcp {
            bytes.extend(sequence.to_be_bytes());
            bytes.extend(self.acknowledgement.to_be_bytes());
            bytes.extend([(((20 + self.options.len()) / 4) << 4) as u8, flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(&self.options);
        } else {
            bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
            bytes.extend([0; 2]);
        }
        bytes.extend(payload);
        bytes
    }

    fn addresses(&self) -> Vec<u8> {
        if self.is_ipv4 {
            vec![10, 0, 0, 1, 10, 0, 0, 2]
        } else {
            let mut addresses = vec![0; 32];
            (addresses[0], addresses[15]) = (0xFD, 1);
            (addresses[16], addresses[31]) = (0xFD, 2);
            addresses
        }
    }

    fn pseudo(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.addresses();
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, 0, 0, if self.is_tcp { 6 } else { 17 }]);
        bytes
    }

    fn network(&self, length: usize, number: u16) -> Vec<u8> {
        let protocol = if self.is_tcp { 6 } else { 17 };
        if !self.is_ipv4 {
            let mut bytes = (6 << 28 | u32::from(self.tos) << 20).to_be_bytes().to_vec();
            bytes.extend((length as u16).to_be_bytes());
            bytes.extend([protocol, self.ttl]);
            bytes.extend(self.addresses());
            return bytes;
        }
        let mut bytes = vec![0x45, self.tos];
        bytes.extend(((20 + length) as u16).to_be_bytes());
        bytes.extend(number.to_be_bytes());
        bytes.extend([
            if self.dont_fragment { 0x40 } else { 0 },
            0,
            self.ttl,
            protocol,
            0,
            0,
        ]);
        bytes.extend(self.addresses());
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}
