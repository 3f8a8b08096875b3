//! Datagrams that lie one behind the other, as one send or receive of many has them.

use core::ops::Range;

use crate::virtio::MAX_UDP_PAYLOAD;

/// No send and no receive of ours has more: `UDP_MAX_SEGMENTS` of the newest kernels.
pub const MAX_DATAGRAMS: usize = 128;

/// Where they lie: all of `stride` bytes except the last, which may be shorter.
///
/// INVARIANT: 1 to [`MAX_DATAGRAMS`] of them, none empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagrams {
    count: usize,
    stride: usize,
    last: usize,
}

impl Datagrams {
    /// `size` bytes cut every `stride`; None for nothing, or too many.
    #[must_use]
    pub fn covering(size: usize, stride: usize) -> Option<Self> {
        if size == 0 || stride == 0 {
            return None;
        }
        let count = size.div_ceil(stride);
        let last = size - (count - 1) * stride;
        // Of a single one the stride means nothing.
        let stride = if count == 1 { last } else { stride };
        (count <= MAX_DATAGRAMS).then_some(Self {
            count,
            stride,
            last,
        })
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes from the beginning of one to that of the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes of all.
    #[must_use]
    pub fn size(&self) -> usize {
        (self.count - 1) * self.stride + self.last
    }

    /// Where the one with this number lies; empty past the last.
    #[must_use]
    #[inline]
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = index.min(self.count) * self.stride;
        start
            ..start
                .saturating_add(self.stride)
                .min(self.size())
                .max(start)
    }

    /// Where they lie, in order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let all = *self;
        (0..self.count).map(move |index| all.range(index))
    }

    /// A set with all of them, as [`crate::aead::BatchAead::open`] takes it.
    #[must_use]
    pub fn all(&self) -> u128 {
        u128::MAX >> (MAX_DATAGRAMS - self.count)
    }

    /// Append one of `size` bytes, to go out in the same send.
    ///
    /// False, and nothing changed, if the kernel would not cut them apart again: after a
    /// short one, longer than the others, or more than `max_segments` or one send holds.
    #[must_use]
    pub fn push(&mut self, size: usize, max_segments: usize) -> bool {
        let fits = self.last == self.stride
            && (1..=self.stride).contains(&size)
            && self.count < max_segments.min(MAX_DATAGRAMS)
            && self.size() + size <= MAX_UDP_PAYLOAD;
        if fits {
            self.count += 1;
            self.last = size;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_last_one_is_told_apart() {
        let datagrams = Datagrams::covering(250, 100).unwrap();
        assert_eq!(
            datagrams.ranges().collect::<Vec<_>>(),
            [0..100, 100..200, 200..250]
        );
        assert_eq!(
            (datagrams.count(), datagrams.size(), datagrams.all()),
            (3, 250, 0b111)
        );
        assert_eq!(datagrams.range(3), 300..300);
    }

    #[test]
    fn nothing_and_too_many_are_no_datagrams() {
        assert_eq!(Datagrams::covering(0, 100), None);
        assert_eq!(Datagrams::covering(100, 0), None);
        assert_eq!(Datagrams::covering(129, 1), None);
        assert_eq!(
            Datagrams::covering(128, 1).map(|all| all.all()),
            Some(u128::MAX)
        );
    }

    #[test]
    fn only_what_the_kernel_can_cut_is_appended() {
        let mut datagrams = Datagrams::covering(96, 1000).unwrap();
        assert!(!datagrams.push(112, 64), "longer");
        assert!(!datagrams.push(0, 64), "empty");
        assert!(!datagrams.push(96, 1), "too many");
        assert!(datagrams.push(96, 64));
        assert!(datagrams.push(32, 64));
        assert!(!datagrams.push(32, 64), "after a short one");
        assert_eq!(
            datagrams.ranges().collect::<Vec<_>>(),
            [0..96, 96..192, 192..224]
        );

        let mut datagrams = Datagrams::covering(1452, 1452).unwrap();
        while datagrams.push(1452, 128) {}
        assert_eq!((datagrams.count(), datagrams.size()), (45, 65_340));
        assert!(datagrams.push(167, 128));
    }

    proptest! {
        #[test]
        fn ranges_follow_each_other_and_cover_everything(
            size in 1_usize..70_000, stride in 1_usize..70_000
        ) {
            if let Some(datagrams) = Datagrams::covering(size, stride) {
                let mut end = 0;
                for range in datagrams.ranges() {
                    prop_assert_eq!(range.start, end);
                    prop_assert!(range.end > range.start);
                    end = range.end;
                }
                prop_assert_eq!(end, size);
                prop_assert_eq!(datagrams.size(), size);
            } else {
                prop_assert!(size.div_ceil(stride) > MAX_DATAGRAMS);
            }
        }
    }
}
