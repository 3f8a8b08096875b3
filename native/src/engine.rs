//! The engine as its owner sees it: started, told, asked, closed.
//!
//! It has one thread, or a few, which run packets to completion; see [`crate::worker`]. What
//! others share with them is small: a box of command batches, the events, counts, and two
//! event descriptors to wake each other by.

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use nvpn_core::mailbox::{Bell, Mailbox};
use nvpn_core::{Command, Drops, Event, EventQueue, Instant};

use crate::common::{Common, lock};
use crate::sys::{Errno, EventFd, boot_ns};
use crate::worker::Worker;

/// What an engine begins with. Descriptors stay their owner's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The overlay device, a descriptor for each of its queues: non-blocking, a packet a
    /// read, a packet a write.
    pub tuns: Vec<RawFd>,
    /// Whether each of these begins with a virtio-net header.
    pub vnet_hdr: bool,
    /// Whether the device takes merged TCP.
    pub tso: bool,
    /// Whether the device takes merged UDP.
    pub uso: bool,
    /// The UDP socket of IPv4; negative for off.
    pub ipv4: RawFd,
    /// The UDP socket of IPv6; negative for off.
    pub ipv6: RawFd,
    /// Whether to use merged sends.
    pub gso: bool,
    /// Whether to use merged receives.
    pub gro: bool,
    /// Whether packets may be handled several at a time.
    pub batches: bool,
    /// The tunnel's MTU, 0 for unknown.
    pub mtu: u32,
    /// UDP_MAX_SEGMENTS of this kernel.
    pub max_segments: usize,
    /// Threads that move packets.
    pub workers: usize,
    /// Whether all of them are awake whenever there is something to do, rather than one
    /// until that one cannot keep up; for tests.
    pub eager: bool,
    /// 0, or what a clock shows that only [`Engine::set_clock`] moves.
    pub now: Instant,
}

/// What the kernel does for us at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Merged TCP writes to the device.
    pub tso: bool,
    /// Merged UDP writes to the device.
    pub uso: bool,
    /// Merged sends.
    pub gso: bool,
    /// Merged receives.
    pub gro: bool,
    /// The kernel has refused merged writes.
    pub writes_refused: bool,
    /// The kernel has refused merged sends.
    pub sends_refused: bool,
}

impl Used {
    fn pack(self) -> u8 {
        [
            self.tso,
            self.uso,
            self.gso,
            self.gro,
            self.writes_refused,
            self.sends_refused,
        ]
        .iter()
        .enumerate()
        .fold(0, |bits, (index, &used)| bits | u8::from(used) << index)
    }

    fn unpack(bits: u8) -> Self {
        let [tso, uso, gso, gro, writes_refused, sends_refused] =
            [0, 1, 2, 3, 4, 5].map(|index| bits >> index & 1 == 1);
        Self {
            tso,
            uso,
            gso,
            gro,
            writes_refused,
            sends_refused,
        }
    }
}

impl Bell for EventFd {
    fn ring(&self) {
        self.signal();
    }

    fn still(&self) {
        self.clear();
    }
}

/// What the threads and their owner have in common.
#[derive(Debug)]
pub struct Shared {
    commands: Mailbox<Vec<Command>, EventFd>,
    stop: AtomicBool,
    news: EventFd,
    used: AtomicU8,
    clock: AtomicU64,
    rests: AtomicU64,
    /// What happened.
    pub events: Arc<EventQueue>,
    /// What was dropped.
    pub drops: Arc<Drops>,
}

impl Shared {
    fn new(now: Instant) -> Result<Self, Errno> {
        Ok(Self {
            commands: Mailbox::new(EventFd::new()?),
            stop: AtomicBool::new(false),
            news: EventFd::new()?,
            used: AtomicU8::new(0),
            clock: AtomicU64::new(now),
            rests: AtomicU64::new(0),
            events: Arc::new(EventQueue::new()),
            drops: Arc::new(Drops::new()),
        })
    }

    // --- the thread's side --------------------------------------------------------------

    /// What time it is.
    #[inline]
    pub fn now(&self) -> Instant {
        match self.clock.load(Ordering::Acquire) {
            0 => boot_ns(),
            set => set,
        }
    }

    /// Whether [`Shared::next_batch`] may have something.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.commands.is_pending()
    }

    /// Before batches are taken: see [`Mailbox::begin_taking`].
    pub fn begin_commands(&self) {
        self.commands.begin_taking();
    }

    /// The next batch of commands and its number.
    pub fn next_batch(&self) -> Option<(u64, Vec<Command>)> {
        self.commands.take()
    }

    /// A batch is in force.
    pub fn acknowledge(&self, number: u64) {
        self.commands.settle(number);
        self.news.signal();
    }

    /// Whether the threads are to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The threads are to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Wake the thread that watches, if one does; else the next one that is about to.
    pub fn rouse(&self) {
        self.commands.bell().ring();
    }

    /// For the thread that watches, when it has woken.
    pub fn still(&self) {
        self.commands.bell().still();
    }

    /// Tell the owner of events, if there are new ones.
    #[inline]
    pub fn announce(&self) {
        if self.events.take_news() {
            self.news.signal();
        }
    }

    /// What wakes the thread that watches.
    pub fn wake_fd(&self) -> RawFd {
        self.commands.bell().fd()
    }

    /// All threads go to wait.
    pub fn note_rest(&self) {
        self.rests.fetch_add(1, Ordering::AcqRel);
    }

    /// Say what is in use now, as one of the threads has found it. What the kernel has
    /// refused to one of them stays refused.
    pub fn set_used(&self, found: Used) {
        let merged = |before: u8| {
            let before = Used::unpack(before);
            let writes_refused = found.writes_refused || before.writes_refused;
            let sends_refused = found.sends_refused || before.sends_refused;
            Used {
                tso: found.tso && !writes_refused,
                uso: found.uso && !writes_refused,
                gso: found.gso && !sends_refused,
                gro: found.gro,
                writes_refused,
                sends_refused,
            }
            .pack()
        };
        let update = |before| Some(merged(before));
        let before = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, update);
        if before.is_ok_and(|before| merged(before) != before) {
            self.news.signal();
        }
    }
}

/// What a thread does until it is told to stop.
pub trait Run {
    /// Do it.
    fn run(&mut self);

    /// Zero all keys: `run` has ended, or died.
    fn wipe(&mut self);
}

/// Run to the end, whichever it is: keys are zeroed, and a death becomes an event.
fn guard(worker: &mut impl Run, shared: &Shared) {
    let ended = catch_unwind(AssertUnwindSafe(|| worker.run()));
    let wiped = catch_unwind(AssertUnwindSafe(|| worker.wipe()));
    for failure in [ended, wiped].into_iter().filter_map(Result::err) {
        let message = describe(&*failure);
        shared.events.add(Event::Failed { message });
    }
    shared.announce();
}

/// Threads that move packets, until they are closed or dropped.
#[derive(Debug)]
pub struct Engine {
    common: Arc<Common>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Begin to move packets.
    ///
    /// # Errors
    /// The kernel has no thread or no descriptor to give.
    pub fn start(settings: &Settings) -> Result<Self, Errno> {
        let shared = Arc::new(Shared::new(settings.now)?);
        let engine = Self {
            common: Arc::new(Common::new(settings, shared)),
            threads: Mutex::default(),
        };
        for number in 0..settings.workers {
            let common = Arc::clone(&engine.common);
            let mut worker = Worker::new(settings, Arc::clone(&common), number);
            // Without all of them there is none: those that run end with the engine.
            let thread = Builder::new()
                .name(format!("nvpn-worker-{number}"))
                .spawn(move || guard(&mut worker, &common.shared))
                .map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN))?;
            lock(&engine.threads).push(thread);
        }
        Ok(engine)
    }

    /// Queue a batch of commands; returns its number.
    pub fn submit(&self, commands: Vec<Command>) -> u64 {
        self.shared().commands.post(commands)
    }

    fn shared(&self) -> &Shared {
        &self.common.shared
    }

    /// The number of the latest batch that is in force.
    pub fn acknowledged(&self) -> u64 {
        self.shared().commands.settled()
    }

    /// See [`EventQueue::take`].
    pub fn take_events(&self, max_handshakes: usize) -> Vec<Event> {
        self.shared().events.take(max_handshakes)
    }

    /// Whether `take_events` would give anything.
    pub fn has_events(&self) -> bool {
        !self.shared().events.is_empty()
    }

    /// What was dropped.
    pub fn drops(&self) -> &Drops {
        &self.shared().drops
    }

    /// What the kernel does for us at present.
    pub fn offloads(&self) -> Used {
        Used::unpack(self.shared().used.load(Ordering::Acquire))
    }

    /// Readable when there are events or acknowledgements, until [`Engine::clear_news`].
    pub fn news_fd(&self) -> RawFd {
        self.shared().news.fd()
    }

    /// Make it unreadable; then look.
    pub fn clear_news(&self) {
        self.shared().news.clear();
    }

    /// Go by this clock from now on.
    pub fn set_clock(&self, now: Instant) {
        self.shared().clock.store(now, Ordering::Release);
    }

    /// How often all threads found nothing to do.
    pub fn rests(&self) -> u64 {
        self.shared().rests.load(Ordering::Acquire)
    }

    /// End the threads; all keys are zeroed when this returns.
    pub fn close(&self) {
        self.common.end();
        for thread in lock(&self.threads).drain(..) {
            // A panic was caught inside and has become an event.
            let _ = thread.join();
        }
        self.shared().commands.clear();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// The text of a panic.
fn describe(failure: &(dyn std::any::Any + Send)) -> String {
    failure
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| failure.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "for a reason that it did not give".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Interest, Poller};

    struct Dying {
        last_words: &'static str,
        wiped: bool,
    }

    impl Run for Dying {
        fn run(&mut self) {
            if !self.last_words.is_empty() {
                std::panic::resume_unwind(Box::new(self.last_words));
            }
        }

        fn wipe(&mut self) {
            self.wiped = true;
        }
    }

    #[test]
    fn a_thread_that_dies_has_its_keys_wiped_and_says_so_loudly() {
        let shared = Shared::new(0).unwrap();
        let mut worker = Dying {
            last_words: "index out of bounds",
            wiped: false,
        };
        guard(&mut worker, &shared);
        assert!(worker.wiped);
        let message = "index out of bounds".to_owned();
        assert_eq!(shared.events.take(9), [Event::Failed { message }]);
        let mut news = [Interest {
            fd: shared.news.fd(),
            ready: false,
        }];
        Poller::default().wait(&mut news, 0);
        assert!(news[0].ready, "whoever waits for events wakes");
    }

    #[test]
    fn a_thread_that_is_stopped_says_nothing() {
        let shared = Shared::new(0).unwrap();
        let mut worker = Dying {
            last_words: "",
            wiped: false,
        };
        guard(&mut worker, &shared);
        assert!(worker.wiped && shared.events.is_empty());
    }

    #[test]
    fn what_is_in_use_survives_its_packing() {
        for bits in 0..64 {
            assert_eq!(Used::unpack(bits).pack(), bits);
        }
    }
}
