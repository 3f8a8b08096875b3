//! Whether single packets come so fast that it pays to let a few of them gather.
//!
//! A worker that is faster than those who send finds one packet whenever it looks, and
//! sends each by itself, at ten times the price of one among many. So does a network card
//! that interrupts for each, and the remedy is theirs: above a rate at which nobody waits
//! for an answer to every packet, look less often.

use nvpn_core::Instant;

const WINDOW: Instant = 1_000_000;
/// Of a window, in one direction. A flood of pings, each of which waits for the one before,
/// stays far below.
const MANY: usize = 100;

/// Counts packets that came alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    began_at: Instant,
    packets: usize,
    is_fast: bool,
}

impl Pace {
    /// So many have come since the last call; whether to wait before looking for more.
    pub fn note(&mut self, packets: usize, now: Instant) -> bool {
        self.packets += packets;
        let age = now.saturating_sub(self.began_at);
        if age >= WINDOW {
            // After a rest the window is long, and what is in it few.
            self.is_fast = self.packets >= MANY && age < 2 * WINDOW;
            (self.began_at, self.packets) = (now, 0);
        }
        self.is_fast && packets > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether waiting is asked for after a second of packets at this distance.
    fn waits(distance: Instant) -> bool {
        let mut pace = Pace::default();
        let mut now = 1_000_000_000;
        let mut waits = false;
        for _ in 0..1_000_000_000 / distance {
            now += distance;
            waits = pace.note(1, now);
        }
        waits
    }

    #[test]
    fn packets_that_follow_each_other_closely_may_gather() {
        assert!(waits(4_000) && waits(9_000));
    }

    #[test]
    fn whoever_waits_for_answers_waits_for_nothing_else() {
        assert!(!waits(15_000) && !waits(40_000) && !waits(2_000_000));
    }

    #[test]
    fn the_first_packets_after_a_pause_go_at_once() {
        let mut pace = Pace::default();
        let mut now = 1_000_000_000;
        for _ in 0..1000 {
            now += 4_000;
            pace.note(1, now);
        }
        assert!(pace.note(1, now + 4_000));
        assert!(!pace.note(1, now + 50_000_000));
        assert!(!pace.note(0, now + 50_004_000), "nor when there are none");
    }
}
