//! Letters from one thread to others, who may be asleep.

use std::collections::VecDeque;

use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};

/// What wakes whoever waits for it: once rung it stays so until it is stilled.
pub trait Bell {
    /// Wake them.
    fn ring(&self);

    /// Sleep the next time.
    fn still(&self);
}

/// Letters in their order, each with a number.
///
/// Whoever is awake asks [`Mailbox::is_pending`], and then takes letters until there are
/// none. Whoever slept stills the bell when he wakes, before he asks. INVARIANT: a letter
/// lies in the box before `pending` is set, and that is set before the bell rings; so no
/// letter is slept over, though a bell may ring for one that was taken meanwhile.
#[derive(Debug)]
pub struct Mailbox<T, B> {
    letters: Mutex<VecDeque<(u64, T)>>,
    is_pending: AtomicBool,
    posted: AtomicU64,
    settled: AtomicU64,
    bell: B,
}

impl<T, B: Bell> Mailbox<T, B> {
    /// An empty one.
    pub fn new(bell: B) -> Self {
        Self {
            letters: Mutex::new(VecDeque::new()),
            is_pending: AtomicBool::new(false),
            posted: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            bell,
        }
    }

    /// To wait for, and to be stilled by whoever waited.
    pub fn bell(&self) -> &B {
        &self.bell
    }

    /// Leave a letter; returns its number, from 1 on.
    pub fn post(&self, letter: T) -> u64 {
        let mut letters = lock(&self.letters);
        let number = self.posted.fetch_add(1, Ordering::Relaxed) + 1;
        letters.push_back((number, letter));
        drop(letters);
        self.is_pending.store(true, Ordering::Release);
        self.bell.ring();
        number
    }

    /// Whether there may be letters.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }

    /// Before letters are taken: what is posted from now on is pending anew.
    pub fn begin_taking(&self) {
        self.is_pending.swap(false, Ordering::AcqRel);
    }

    /// The oldest letter and its number.
    pub fn take(&self) -> Option<(u64, T)> {
        lock(&self.letters).pop_front()
    }

    /// All letters up to this number are dealt with.
    pub fn settle(&self, number: u64) {
        self.settled.store(number, Ordering::Release);
    }

    /// The number of the latest letter that is dealt with.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// Throw away what was not taken.
    pub fn clear(&self) {
        lock(&self.letters).clear();
    }
}

#[cfg(all(test, feature = "loom"))]
mod tests {
    use super::*;
    use crate::sync::Condvar;
    use loom::sync::Arc;
    use loom::thread;

    /// An event descriptor and what waits for it.
    #[derive(Default)]
    struct Chime {
        rung: Mutex<bool>,
        changed: Condvar,
    }

    impl Chime {
        fn sleep(&self) {
            let mut rung = lock(&self.rung);
            while !*rung {
                rung = self.changed.wait(rung).unwrap();
            }
        }
    }

    impl Bell for Chime {
        fn ring(&self) {
            *lock(&self.rung) = true;
            self.changed.notify_all();
        }

        fn still(&self) {
            *lock(&self.rung) = false;
        }
    }

    /// As a worker does: look, and sleep when there is nothing.
    fn collect(mailbox: &Mailbox<u32, Chime>, wanted: usize) -> Vec<u32> {
        let mut collected = Vec::new();
        while collected.len() < wanted {
            if mailbox.is_pending() {
                mailbox.begin_taking();
                while let Some((number, letter)) = mailbox.take() {
                    collected.push(letter);
                    mailbox.settle(number);
                }
            } else {
                mailbox.bell().sleep();
                mailbox.bell().still();
            }
        }
        collected
    }

    #[test]
    fn no_letter_is_slept_over() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new(Chime::default()));
            let worker = {
                let mailbox = mailbox.clone();
                thread::spawn(move || collect(&mailbox, 2))
            };
            mailbox.post(7);
            mailbox.post(8);
            assert_eq!(worker.join().unwrap(), [7, 8]);
            assert_eq!(mailbox.settled(), 2);
        });
    }

    #[test]
    fn a_bell_that_rings_for_a_letter_already_taken_hides_no_later_one() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new(Chime::default()));
            let poster = {
                let mailbox = mailbox.clone();
                thread::spawn(move || {
                    mailbox.post(7);
                    mailbox.post(8);
                })
            };
            // Whoever is awake does not wait for the bell, which may ring later.
            if mailbox.is_pending() {
                mailbox.begin_taking();
                assert_eq!(mailbox.take(), Some((1, 7)));
                assert_eq!(collect_rest(&mailbox), [8]);
            } else {
                assert_eq!(collect(&mailbox, 2), [7, 8]);
            }
            poster.join().unwrap();
        });
    }

    fn collect_rest(mailbox: &Mailbox<u32, Chime>) -> Vec<u32> {
        match mailbox.take() {
            Some((_, letter)) => vec![letter],
            None => collect(mailbox, 1),
        }
    }
}
