//! Sealing and opening many transport messages under one key, where they lie.
//!
//! A batch is the unit because the next factor in speed is there: packets under one key
//! with consecutive nonces can share the vector registers of one core. Whoever writes
//! such a thing implements [`BatchAead`]; [`RingAead`] takes one message after the other.
//!
//! A message is `[type and receiver, 8 | counter, 8 | sealed | tag, 16]`, the nonce four
//! zero bytes and the counter, without associated data.
//!
//! Source: WireGuard paper, section 5.4.6; RFC 8439.

use core::fmt;
use core::hint::black_box;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroize;

use crate::constants::{MIN_TRANSPORT_SIZE, TAG_SIZE, TRANSPORT_HEADER_SIZE};
use crate::datagrams::Datagrams;
use crate::secret::KEY_SIZE;

/// Type and receiver index, as all messages under a key begin.
pub const MESSAGE_HEAD_SIZE: usize = 8;

/// Messages were not sealed, or not all: nothing of them may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsealed;

/// ChaCha20-Poly1305 over a batch of messages under one key.
pub trait BatchAead {
    /// Write the headers of all messages and seal them.
    ///
    /// The plaintexts are in place already, 16 bytes into each message and up to 16 bytes
    /// before its end. Counters begin with `first_counter` and count up.
    ///
    /// # Errors
    /// A message is too short for what surrounds it or lies outside of the buffer, or
    /// the counters overflow.
    fn seal(
        &self,
        key: &[u8; KEY_SIZE],
        head: &[u8; MESSAGE_HEAD_SIZE],
        first_counter: u64,
        buffer: &mut [u8],
        messages: &Datagrams,
    ) -> Result<(), Unsealed>;

    /// Open those messages whose bits are in `wanted`, each with the counter in its header.
    ///
    /// Returns the set of those that are authentic; their plaintexts are where the sealed
    /// bytes were. What is left of one that is not is never plaintext. Headers, and
    /// messages that are not wanted, stay as they are.
    fn open(
        &self,
        key: &[u8; KEY_SIZE],
        buffer: &mut [u8],
        messages: &Datagrams,
        wanted: u128,
    ) -> u128;
}

/// Where the plaintext is within a message of `size` bytes; empty if there is none.
#[must_use]
#[inline]
pub fn plaintext(size: usize) -> core::ops::Range<usize> {
    TRANSPORT_HEADER_SIZE..size.saturating_sub(TAG_SIZE).max(TRANSPORT_HEADER_SIZE)
}

/// `ring`'s ChaCha20-Poly1305. The cipher is made from the 32 bytes for each batch.
#[derive(Clone, Copy, Default)]
pub struct RingAead;

impl fmt::Debug for RingAead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ring")
    }
}

impl BatchAead for RingAead {
    fn seal(
        &self,
        key: &[u8; KEY_SIZE],
        head: &[u8; MESSAGE_HEAD_SIZE],
        first_counter: u64,
        buffer: &mut [u8],
        messages: &Datagrams,
    ) -> Result<(), Unsealed> {
        let cipher = cipher(key).ok_or(Unsealed)?;
        let mut counter = Some(first_counter);
        for range in messages.ranges() {
            let message = buffer.get_mut(range).ok_or(Unsealed)?;
            let (header, body) = message.split_first_chunk_mut().ok_or(Unsealed)?;
            let (plain, tag) = body.split_last_chunk_mut::<TAG_SIZE>().ok_or(Unsealed)?;
            let number = counter.ok_or(Unsealed)?;
            *header = transport_header(head, number);
            *tag = *cipher
                .seal_in_place_separate_tag(nonce(number.to_le_bytes()), Aad::empty(), plain)
                .map_err(|_| Unsealed)?
                .as_ref()
                .first_chunk()
                .ok_or(Unsealed)?;
            counter = number.checked_add(1);
        }
        Ok(())
    }

    fn open(
        &self,
        key: &[u8; KEY_SIZE],
        buffer: &mut [u8],
        messages: &Datagrams,
        wanted: u128,
    ) -> u128 {
        let Some(cipher) = cipher(key) else { return 0 };
        let mut opened = 0;
        for (index, range) in messages.ranges().enumerate() {
            if wanted >> index & 1 == 1 && open_one(&cipher, buffer.get_mut(range)) {
                opened |= 1 << index;
            }
        }
        opened
    }
}

#[inline]
fn open_one(cipher: &LessSafeKey, message: Option<&mut [u8]>) -> bool {
    let Some(message) = message else { return false };
    if message.len() < MIN_TRANSPORT_SIZE {
        return false;
    }
    let (header, sealed) = message.split_at_mut(TRANSPORT_HEADER_SIZE);
    let Some(counter) = header.last_chunk() else {
        return false;
    };
    cipher
        .open_in_place(nonce(*counter), Aad::empty(), sealed)
        .is_ok()
}

fn cipher(key: &[u8; KEY_SIZE]) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, key).ok()?,
    ))
}

fn transport_header(head: &[u8; MESSAGE_HEAD_SIZE], counter: u64) -> [u8; TRANSPORT_HEADER_SIZE] {
    let mut header = [0; TRANSPORT_HEADER_SIZE];
    header[..MESSAGE_HEAD_SIZE].copy_from_slice(head);
    header[MESSAGE_HEAD_SIZE..].copy_from_slice(&counter.to_le_bytes());
    header
}

fn nonce(counter: [u8; 8]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter);
    Nonce::assume_unique_for_key(nonce)
}

const STACK_BYTES: usize = 1 << 16;

/// Overwrite what calls from here have left on the stack.
///
/// Ciphers live there while a batch is sealed, and `ring` does not zero them: call this
/// after keys were erased, from no deeper in the stack than batches are sealed from.
#[inline(never)]
pub fn wipe_stack() {
    let mut stack = [0_u8; STACK_BYTES];
    black_box(&mut stack).zeroize();
    black_box(&stack);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];
    const HEAD: [u8; 8] = [4, 0, 0, 0, 0x44, 0x33, 0x22, 0x11];

    fn batch(stride: usize, count: usize, last: usize) -> (Vec<u8>, Datagrams) {
        let size = (count - 1) * stride + last;
        let bytes = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        (bytes, Datagrams::covering(size, stride).unwrap())
    }

    #[test]
    fn a_message_is_what_rfc_8439_makes_of_it() {
        // Key, nonce and message all zero but for the key's and counter's last bytes:
        // made with another implementation (Python's cryptography).
        let mut key = [0; 32];
        key[31] = 1;
        let (mut buffer, messages) = batch(32 + 16, 1, 32 + 16);
        buffer[16..32].fill(0);
        RingAead
            .seal(&key, &HEAD, 5, &mut buffer, &messages)
            .unwrap();
        assert_eq!(buffer[..8], HEAD);
        assert_eq!(buffer[8..16], 5_u64.to_le_bytes());
        assert_eq!(hex(&buffer[16..]), SEALED_BY_ANOTHER);
    }

    const SEALED_BY_ANOTHER: &str =
        "feb6aa64be2dc4a2bec6a34ac7d4688082bfc615864be4cc0daf9c73fee36fbd";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let (plain, messages) = batch(1452, 45, 77);
        let mut buffer = plain.clone();
        RingAead
            .seal(&KEY, &HEAD, 1000, &mut buffer, &messages)
            .unwrap();
        assert_eq!(
            RingAead.open(&KEY, &mut buffer, &messages, messages.all()),
            messages.all()
        );
        for (index, range) in messages.ranges().enumerate() {
            let body = plaintext(range.len());
            assert_eq!(
                buffer[range.clone()][body.clone()],
                plain[range.clone()][body]
            );
            assert_eq!(
                buffer[range.start + 8..][..8],
                (1000 + index as u64).to_le_bytes()
            );
        }
    }

    #[test]
    fn a_forged_message_is_found_among_genuine_ones_and_shows_no_plaintext() {
        let (plain, messages) = batch(128, 5, 128);
        let mut buffer = plain.clone();
        RingAead
            .seal(&KEY, &HEAD, 0, &mut buffer, &messages)
            .unwrap();
        buffer[2 * 128 + 120] ^= 1;
        assert_eq!(
            RingAead.open(&KEY, &mut buffer, &messages, messages.all()),
            0b11011
        );
        assert_ne!(
            buffer[2 * 128 + 16..3 * 128 - 16],
            plain[2 * 128 + 16..3 * 128 - 16]
        );
    }

    #[test]
    fn messages_that_are_not_wanted_stay_sealed() {
        let (plain, messages) = batch(64, 4, 40);
        let mut sealed = plain;
        RingAead
            .seal(&KEY, &HEAD, 0, &mut sealed, &messages)
            .unwrap();
        let mut buffer = sealed.clone();
        assert_eq!(RingAead.open(&KEY, &mut buffer, &messages, 0b1010), 0b1010);
        assert_eq!(buffer[..64], sealed[..64]);
        assert_eq!(buffer[128..192], sealed[128..192]);
    }

    #[test]
    fn what_cannot_be_sealed_says_so() {
        let (mut short, messages) = batch(64, 2, 31);
        assert_eq!(
            RingAead.seal(&KEY, &HEAD, 0, &mut short, &messages),
            Err(Unsealed)
        );
        let (mut buffer, messages) = batch(64, 2, 64);
        assert_eq!(
            RingAead.seal(&KEY, &HEAD, 0, &mut buffer[..100], &messages),
            Err(Unsealed)
        );
        assert_eq!(
            RingAead.seal(&KEY, &HEAD, u64::MAX, &mut buffer, &messages),
            Err(Unsealed)
        );
    }

    #[test]
    fn what_is_too_short_does_not_open() {
        let (mut buffer, messages) = batch(31, 3, 31);
        assert_eq!(
            RingAead.open(&KEY, &mut buffer, &messages, messages.all()),
            0
        );
        let (mut buffer, messages) = batch(64, 2, 64);
        RingAead
            .seal(&KEY, &HEAD, 0, &mut buffer, &messages)
            .unwrap();
        assert_eq!(
            RingAead.open(&KEY, &mut buffer[..100], &messages, u128::MAX),
            1
        );
    }

    #[test]
    fn a_keepalive_is_a_message_without_plaintext() {
        let (mut buffer, messages) = batch(32, 1, 32);
        RingAead
            .seal(&KEY, &HEAD, 9, &mut buffer, &messages)
            .unwrap();
        assert_eq!(RingAead.open(&KEY, &mut buffer, &messages, 1), 1);
        assert!(plaintext(32).is_empty() && plaintext(3).is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            size in 1_usize..700,
            stride in 1_usize..700,
            wanted: u128,
        ) {
            if let Some(messages) = Datagrams::covering(size, stride) {
                prop_assert_eq!(RingAead.open(&KEY, &mut bytes, &messages, wanted), 0);
            }
        }

        #[test]
        fn every_shape_of_batch_opens_again(
            count in 1_usize..128, stride in 32_usize..400, last in 32_usize..400, counter: u32
        ) {
            let (plain, messages) = batch(stride, count, last.min(stride));
            let mut buffer = plain.clone();
            RingAead.seal(&KEY, &HEAD, counter.into(), &mut buffer, &messages).unwrap();
            let opened = RingAead.open(&KEY, &mut buffer, &messages, u128::MAX);
            prop_assert_eq!(opened, messages.all());
            for range in messages.ranges() {
                let body = plaintext(range.len());
                prop_assert_eq!(&buffer[range.clone()][body.clone()], &plain[range][body]);
            }
        }
    }
}
