//! Which counters of a key have been seen: each is accepted once, and old ones never.
//!
//! The window is that of RFC 6479: a ring of words, so that nothing is ever shifted, and a
//! run of consecutive counters is marked a word at a time.
//!
//! Nothing here is authenticated. Ask [`ReplayWindow::may_accept`] before opening a packet
//! to spare the work on plain replays, and [`ReplayWindow::accept`] only after its tag was
//! found valid: then a forged counter cannot move the window.

use crate::constants::REJECT_AFTER_MESSAGES;

/// Counters remembered, as the kernel and wireguard-go do.
pub const WINDOW_SIZE: u64 = 8192;

/// How far behind the greatest counter one is still accepted, inclusive: one word is
/// always in the way of being filled.
pub const MAX_DISTANCE: u64 = WINDOW_SIZE - 64;

const WORDS: usize = (WINDOW_SIZE / 64) as usize;

/// The counters seen under one receiving key.
#[derive(Clone)]
pub struct ReplayWindow {
    /// One more than the greatest counter accepted; 0 before the first.
    end: u64,
    /// INVARIANT: bits of counters from `end` to the end of its word are 0, and the words
    /// are those of the last `WORDS` aligned runs of 64 counters.
    words: [u64; WORDS],
}

impl ReplayWindow {
    /// Nothing was seen.
    pub const fn new() -> Self {
        Self {
            end: 0,
            words: [0; WORDS],
        }
    }

    /// The greatest counter accepted.
    pub const fn greatest(&self) -> Option<u64> {
        self.end.checked_sub(1)
    }

    /// Whether `accept` would take it now.
    pub fn may_accept(&self, counter: u64) -> bool {
        if counter >= self.end {
            return counter < REJECT_AFTER_MESSAGES;
        }
        !self.is_too_old(counter) && self.words[word_of(counter)] & (1 << (counter % 64)) == 0
    }

    /// Mark a counter whose packet is authentic; false if it was seen or is too old.
    pub fn accept(&mut self, counter: u64) -> bool {
        self.accept_run(counter, 1)
    }

    /// Whether `accept_run` would take all of these consecutive counters now.
    pub fn may_accept_run(&self, first: u64, count: u64) -> bool {
        let Some(end) = first.checked_add(count) else {
            return false;
        };
        if end > REJECT_AFTER_MESSAGES || self.is_too_old(first) {
            return false;
        }
        Run::new(first, end.min(self.end)).all(|(word, bits)| self.words[word] & bits == 0)
    }

    /// Mark `count` consecutive counters whose packets are all authentic.
    ///
    /// All or nothing: false, and no change, if any of them was seen or is too old. The
    /// outcome for a run that is taken is that of `accept` on each in rising order.
    pub fn accept_run(&mut self, first: u64, count: u64) -> bool {
        if !self.may_accept_run(first, count) {
            return false;
        }
        if count == 0 {
            return true;
        }
        let end = first + count;
        if end > self.end {
            self.advance(end);
        }
        // Of a run that is longer than the window the beginning is forgotten at once.
        let oldest = ((end - 1) / 64).saturating_sub(WORDS as u64 - 1) * 64;
        for (word, bits) in Run::new(first.max(oldest), end) {
            self.words[word] |= bits;
        }
        true
    }

    fn is_too_old(&self, counter: u64) -> bool {
        self.end
            .checked_sub(1)
            .is_some_and(|greatest| greatest.saturating_sub(counter) > MAX_DISTANCE)
    }

    /// Make room for counters below `end`: words come into the window empty.
    fn advance(&mut self, end: u64) {
        let newest = (end - 1) / 64;
        let known = match self.end {
            0 => None,
            end => Some((end - 1) / 64),
        };
        match known {
            Some(known) if newest - known < WORDS as u64 => {
                for word in known + 1..=newest {
                    self.words[(word % WORDS as u64) as usize] = 0;
                }
            }
            _ => self.words = [0; WORDS],
        }
        self.end = end;
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ReplayWindow(greatest {:?})", self.greatest())
    }
}

const fn word_of(counter: u64) -> usize {
    (counter / 64) as usize % WORDS
}

/// The words that counters from `first` up to `end` fall into, each with their bits.
struct Run {
    first: u64,
    end: u64,
}

impl Run {
    const fn new(first: u64, end: u64) -> Self {
        Self { first, end }
    }
}

impl Iterator for Run {
    type Item = (usize, u64);

    fn next(&mut self) -> Option<(usize, u64)> {
        if self.first >= self.end {
            return None;
        }
        let low = self.first % 64;
        let here = (64 - low).min(self.end - self.first);
        let bits = (u64::MAX >> (64 - here)) << low;
        let word = word_of(self.first);
        self.first += here;
        Some((word, bits))
    }
}
