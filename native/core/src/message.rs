//! What a datagram claims to be.
//!
//! All integers are little-endian. Byte 0 is the type, bytes 1 to 3 are zero; the four are
//! compared as one number.

use crate::constants::{COOKIE_REPLY_SIZE, INITIATION_SIZE, MIN_TRANSPORT_SIZE, RESPONSE_SIZE};

/// The first four bytes of a datagram, as a little-endian number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MessageType {
    /// Asks for a session.
    Initiation = 1,
    /// Answers an initiation.
    Response = 2,
    /// Asks for proof of the source address.
    CookieReply = 3,
    /// Carries data.
    Transport = 4,
}

/// The number at this offset; `None` beyond the end.
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|four| u32::from_le_bytes(*four))
}

/// The number at this offset; `None` beyond the end.
pub fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|eight| u64::from_le_bytes(*eight))
}

/// What the datagram claims to be, if its length fits the claim.
///
/// Types 1 to 3 have one length each, type 4 is at least 32 bytes long.
pub fn message_type(datagram: &[u8]) -> Option<MessageType> {
    let size = datagram.len();
    // A non-zero reserved byte makes the number larger than any type.
    let (kind, fits) = match read_u32(datagram, 0)? {
        1 => (MessageType::Initiation, size == INITIATION_SIZE),
        2 => (MessageType::Response, size == RESPONSE_SIZE),
        3 => (MessageType::CookieReply, size == COOKIE_REPLY_SIZE),
        4 => (MessageType::Transport, size >= MIN_TRANSPORT_SIZE),
        _ => return None,
    };
    fits.then_some(kind)
}

/// The index that an initiation or response wants to be answered by.
pub fn sender_of(handshake: &[u8]) -> Option<u32> {
    read_u32(handshake, 4)
}

/// Which message of ours a response or cookie reply answers; `None` for anything else.
pub fn receiver_of(datagram: &[u8]) -> Option<u32> {
    match message_type(datagram)? {
        MessageType::Response => read_u32(datagram, 8),
        MessageType::CookieReply => read_u32(datagram, 4),
        _ => None,
    }
}
