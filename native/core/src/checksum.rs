//! The Internet checksum.
//!
//! A sum of 16-bit words with end-around carry is a number modulo 65535. Here it is kept
//! as any number that is the same modulo 65535 and brought into its field by
//! [`complement`], so that sums of parts are added like other numbers. Every part must
//! begin at an even place of the whole.
//!
//! Source: RFC 1071; RFC 768 and RFC 8200 section 8.1 for UDP's zero.

/// 65536 is 1 in this arithmetic.
pub const MODULUS: u32 = 0xFFFF;

/// The sum of the 16-bit words of `data` in network order; an odd end is padded by zero.
///
/// Below 65536, but 65535 may stand for 0.
#[must_use]
pub fn word_sum(data: &[u8]) -> u32 {
    // 2^64 is 1 modulo 65535, so 64-bit words do as well; the upper half of an
    // accumulator counts carries. Swapping the bytes of every word swaps those of the
    // sum, so the machine's own order will do until the end.
    let mut sums = [0_u128; 4];
    let blocks = data.chunks_exact(32);
    let mut rest = blocks.remainder();
    for block in blocks {
        for (sum, word) in sums.iter_mut().zip(block.chunks_exact(8)) {
            *sum += u128::from(
                word.first_chunk()
                    .map_or(0, |word| u64::from_ne_bytes(*word)),
            );
        }
    }
    let mut sum = sums.iter().sum::<u128>();
    while let Some((word, more)) = rest.split_first_chunk() {
        sum += u128::from(u64::from_ne_bytes(*word));
        rest = more;
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    sum += u128::from(u64::from_ne_bytes(last));
    u32::from(u16::from_be(fold(sum)))
}

/// A sum as a 16-bit number that is the same modulo 65535, 0 only for 0.
fn fold(sum: u128) -> u16 {
    let mut sum = (sum >> 64) as u64 + u64::from(sum as u32) + (sum as u64 >> 32);
    sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum as u16
}

/// What belongs into the checksum field of something whose words sum up to `total`.
///
/// Never 65535, which stands for the same number; UDP wants it instead of 0.
#[must_use]
pub fn complement(total: u32) -> u16 {
    let below = total % MODULUS;
    if below == 0 {
        0
    } else {
        (MODULUS - below) as u16
    }
}

/// The sum over the pseudo header.
///
/// `addresses` are source and destination, 8 or 32 bytes; `length` is that of the
/// transport header and what follows it.
#[must_use]
pub fn pseudo_sum(addresses: &[u8], protocol: u8, length: u32) -> u32 {
    word_sum(addresses) + u32::from(protocol) + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of RFC 1071, word by word.
    fn plain_sum(data: &[u8]) -> u32 {
        let mut sum = 0_u64;
        for pair in data.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
        (sum % u64::from(MODULUS)) as u32
    }

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let data = [0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7];
        assert_eq!(word_sum(&data), 0xDDF2);
        assert_eq!(complement(0xDDF2), !0xDDF2);
    }

    #[test]
    fn a_sum_of_zero_is_never_written_as_all_ones() {
        assert_eq!(complement(0), 0);
        assert_eq!(complement(MODULUS), 0);
        assert_eq!(complement(2 * MODULUS), 0);
    }

    #[test]
    fn the_greatest_words_do_not_overflow() {
        let data = vec![0xFF; 65_535];
        assert_eq!(word_sum(&data) % MODULUS, plain_sum(&data));
    }

    proptest! {
        #[test]
        fn every_length_sums_up_as_word_by_word(
            data in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            prop_assert_eq!(word_sum(&data) % MODULUS, plain_sum(&data));
        }

        #[test]
        fn what_is_complemented_verifies(mut data in proptest::collection::vec(any::<u8>(), 1..200)) {
            if data.len() % 2 == 1 {
                data.push(0);
            }
            let sum = complement(word_sum(&data));
            data.extend(sum.to_be_bytes());
            prop_assert_eq!(word_sum(&data) % MODULUS, 0);
        }
    }
}
