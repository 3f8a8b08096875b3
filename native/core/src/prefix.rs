//! IP prefixes.

use core::fmt;
use core::net::IpAddr;

/// An IP network: its host bits are always zero.
///
/// Networks of both versions are kept at the top of 128 bits, so that one table code
/// serves both.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    network: u128,
    length: u8,
    version: u8,
}

impl Prefix {
    /// The prefix of `length` bits around an address; `None` when it has fewer bits.
    pub const fn new(address: IpAddr, length: u8) -> Option<Self> {
        let (version, bits) = match address {
            IpAddr::V4(_) => (4, 32),
            IpAddr::V6(_) => (6, 128),
        };
        if length > bits {
            return None;
        }
        Some(Self {
            network: left_aligned(address) & mask(length),
            length,
            version,
        })
    }

    /// 4 or 6.
    pub const fn version(&self) -> u8 {
        self.version
    }

    /// The number of leading bits that count.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The network, its first bit the highest of 128.
    pub const fn network(&self) -> u128 {
        self.network
    }

    /// Whether an address is in it.
    pub const fn contains(&self, address: IpAddr) -> bool {
        let same = matches!(
            (self.version, address),
            (4, IpAddr::V4(_)) | (6, IpAddr::V6(_))
        );
        same && (left_aligned(address) ^ self.network) & mask(self.length) == 0
    }
}

/// An address with its first bit the highest of 128.
pub(crate) const fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => (address.to_bits() as u128) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The highest `length` bits.
pub(crate) const fn mask(length: u8) -> u128 {
    match length {
        0 => 0,
        1..128 => u128::MAX << (128 - length),
        _ => u128::MAX,
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address: IpAddr = match self.version {
            4 => core::net::Ipv4Addr::from_bits((self.network >> 96) as u32).into(),
            _ => core::net::Ipv6Addr::from_bits(self.network).into(),
        };
        write!(f, "{address}/{}", self.length)
    }
}
