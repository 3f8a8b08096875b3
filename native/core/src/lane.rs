//! Work that is begun in order, done side by side, and finished in order.
//!
//! Several workers serve one queue of packets: one after the other they read a batch, they
//! seal or open their batches at the same time, and one after the other, in the order in
//! which they have read, they send or write them. So a single flow has the work of many
//! cores, and stays in order without a queue between threads.

use core::fmt;
use std::thread::panicking;

use crate::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, fence, lock,
    spin_loop,
};

/// Looks at whose turn it is before a worker goes to sleep: a few microseconds, which is
/// less than waking costs anywhere.
const SPINS: u32 = if cfg!(feature = "loom") { 0 } else { 300 };

/// One queue of work.
///
/// A worker does `enter`, reads, and takes a [`Ticket`] for what it has read; it works, and
/// waits for its turn by [`Ticket::wait`]. The turn ends when the ticket is dropped.
///
/// INVARIANT: whoever has a ticket waits for nothing but earlier tickets of the same lane
/// and for locks that are held for moments; so every ticket's turn comes.
pub struct Lane {
    /// The number of the next ticket.
    entrance: Mutex<u64>,
    turn: AtomicU64,
    is_broken: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    changed: Condvar,
}

impl Default for Lane {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane(turn {})", self.turn.load(Ordering::Relaxed))
    }
}

impl Lane {
    /// Nobody is in it.
    pub fn new() -> Self {
        Self {
            entrance: Mutex::new(0),
            turn: AtomicU64::new(0),
            is_broken: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            changed: Condvar::new(),
        }
    }

    /// Be the only one to begin something; `None` once the lane is broken.
    pub fn enter(&self) -> Option<Entrance<'_>> {
        let next = lock(&self.entrance);
        (!self.is_broken()).then_some(Entrance { lane: self, next })
    }

    /// Wait until everything is finished that was begun; nothing begins before the entrance
    /// is dropped. `None` once the lane is broken.
    pub fn pause(&self) -> Option<Entrance<'_>> {
        let entrance = self.enter()?;
        self.wait_for(*entrance.next).then_some(entrance)
    }

    /// Nobody's turn comes any more: somebody died with his work undone.
    pub fn break_down(&self) {
        self.is_broken.store(true, Ordering::Release);
        self.wake_sleepers();
    }

    fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    /// False once the lane is broken.
    fn wait_for(&self, number: u64) -> bool {
        let has_come = || self.turn.load(Ordering::Acquire) == number;
        for _ in 0..SPINS {
            if has_come() {
                return true;
            }
            spin_loop();
        }
        if has_come() {
            return true;
        }
        let mut bed = lock(&self.bed);
        // Announce oneself, then look again; the others move the turn, then look for
        // sleepers. With a fence between the two on either side, one sees the other.
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while !has_come() && !self.is_broken() {
            bed = self
                .changed
                .wait(bed)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        has_come()
    }

    fn wake_sleepers(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            // Whoever announced himself has looked by the time we have the lock, or sleeps.
            drop(lock(&self.bed));
            self.changed.notify_all();
        }
    }
}

/// The place where work begins. Dropped, the next worker may enter.
#[must_use]
pub struct Entrance<'a> {
    lane: &'a Lane,
    next: MutexGuard<'a, u64>,
}

impl fmt::Debug for Entrance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entrance({:?})", self.lane)
    }
}

impl<'a> Entrance<'a> {
    /// Leave with something to do.
    pub fn take_ticket(mut self) -> Ticket<'a> {
        let number = *self.next;
        *self.next += 1;
        Ticket {
            lane: self.lane,
            number,
        }
    }
}

/// The right to a turn.
#[derive(Debug)]
#[must_use]
pub struct Ticket<'a> {
    lane: &'a Lane,
    number: u64,
}

impl Ticket<'_> {
    /// Wait until everything is finished that was begun before; false once the lane is
    /// broken. May be called again.
    pub fn wait(&self) -> bool {
        self.lane.wait_for(self.number)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if panicking() {
            self.lane.break_down();
        } else if self.wait() {
            self.lane.turn.store(self.number + 1, Ordering::Release);
            self.lane.wake_sleepers();
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, mpsc};
    use std::thread;

    #[test]
    fn what_is_begun_in_order_ends_in_order_whoever_is_faster() {
        let lane = Arc::new(Lane::new());
        let source = Arc::new(Mutex::new(0..10_000_u32));
        let done = Arc::new(Mutex::new(Vec::new()));
        let workers = (0..4).map(|_| {
            let (lane, source, done) = (lane.clone(), source.clone(), done.clone());
            thread::spawn(move || {
                loop {
                    let entrance = lane.enter().unwrap();
                    let Some(item) = lock(&source).next() else {
                        break;
                    };
                    let ticket = entrance.take_ticket();
                    // Some work takes longer than other.
                    (0..item % 7 * 50).for_each(|_| core::hint::spin_loop());
                    assert!(ticket.wait());
                    lock(&done).push(item);
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.join().unwrap();
        }
        assert!(lock(&done).iter().copied().eq(0..10_000));
    }

    #[test]
    fn a_pause_comes_after_what_is_under_way_and_holds_up_what_follows() {
        let lane = Arc::new(Lane::new());
        let ticket = lane.enter().unwrap().take_ticket();
        let (say, hear) = mpsc::channel();
        let other = {
            let (lane, say) = (lane.clone(), say.clone());
            thread::spawn(move || {
                let paused = lane.pause().unwrap();
                say.send("paused").unwrap();
                drop(paused);
            })
        };
        say.send("finished").unwrap();
        drop(ticket);
        other.join().unwrap();
        assert_eq!([hear.recv(), hear.recv()], [Ok("finished"), Ok("paused")]);
        let paused = lane.pause().unwrap();
        assert!(lane.entrance.try_lock().is_err());
        drop(paused);
        assert!(lane.enter().is_some());
    }

    #[test]
    fn somebody_who_dies_with_a_ticket_keeps_nobody_waiting() {
        let lane = Arc::new(Lane::new());
        let dying = lane.enter().unwrap().take_ticket();
        let waiting = {
            let lane = lane.clone();
            thread::spawn(move || {
                lane.enter().is_some_and(|entrance| {
                    let ticket = entrance.take_ticket();
                    ticket.wait()
                })
            })
        };
        let died = catch_unwind(AssertUnwindSafe(move || {
            let _dying = dying;
            std::panic::resume_unwind(Box::new("of a mistake"));
        }));
        assert!(died.is_err());
        assert!(!waiting.join().unwrap());
        assert!(lane.enter().is_none() && lane.pause().is_none());
    }
}

#[cfg(all(test, feature = "loom"))]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn no_turn_is_missed_and_none_is_taken_twice() {
        loom::model(|| {
            let lane = Arc::new(Lane::new());
            let done = Arc::new(Mutex::new(Vec::new()));
            let work = |lane: &Lane, done: &Mutex<Vec<u64>>| {
                let ticket = lane.enter().unwrap().take_ticket();
                assert!(ticket.wait());
                lock(done).push(ticket.number);
            };
            let other = {
                let (lane, done) = (lane.clone(), done.clone());
                thread::spawn(move || work(&lane, &done))
            };
            work(&lane, &done);
            other.join().unwrap();
            assert_eq!(*lock(&done), [0, 1]);
        });
    }

    #[test]
    fn a_pause_sees_all_that_was_begun() {
        loom::model(|| {
            let lane = Arc::new(Lane::new());
            let (begun, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let other = {
                let (lane, begun, done) = (lane.clone(), begun.clone(), done.clone());
                thread::spawn(move || {
                    let entrance = lane.enter().unwrap();
                    begun.store(1, Ordering::Relaxed);
                    let ticket = entrance.take_ticket();
                    done.store(1, Ordering::Relaxed);
                    drop(ticket);
                })
            };
            let paused = lane.pause().unwrap();
            assert_eq!(begun.load(Ordering::Relaxed), done.load(Ordering::Relaxed));
            drop(paused);
            other.join().unwrap();
        });
    }

    #[test]
    fn whoever_sleeps_hears_that_the_lane_broke() {
        loom::model(|| {
            let lane = Arc::new(Lane::new());
            let first = lane.enter().unwrap().take_ticket();
            let other = {
                let lane = lane.clone();
                thread::spawn(move || {
                    lane.enter()
                        .is_some_and(|entrance| entrance.take_ticket().wait())
                })
            };
            lane.break_down();
            assert!(!other.join().unwrap());
            drop(first);
        });
    }
}
