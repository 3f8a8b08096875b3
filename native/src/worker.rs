//! A worker's loop: packets run to completion, commands come between batches of them.
//!
//! A turn moves a few batches in each direction, so that neither direction, nor commands,
//! nor the other socket waits for more than about a millisecond. A worker waits in the
//! kernel only when there is nothing at all to do. Nothing is handed to another thread: if
//! there are several workers, each does the whole of what it has begun, and a
//! [`nvpn_core::lane::Lane`] keeps the order.

use std::os::fd::RawFd;
use std::sync::Arc;

use nvpn_core::aead::wipe_stack;
use nvpn_core::lane::{Entrance, Lane};
use nvpn_core::{Command, Device, Event, Instant};

use crate::common::{Common, Sources};
use crate::engine::{Run, Settings, Used};
use crate::inbound::{Inbound, Nothing};
use crate::mail::Mail;
use crate::outbound::Outbound;
use crate::pace::Pace;
use crate::sys::{self, Interest, NO_FD, Poller};
use crate::tun::{Descriptor, TunPort};
use crate::udp::{Kernel, UdpSender};

/// Turns after which a busy worker looks at descriptors that it found empty before.
const TURNS_A_LOOK: u32 = 4;
/// Turns without a rest after which it calls for help.
const TURNS_A_CALL: u32 = 32;

/// In each direction: four of the largest reads, or so many small ones.
const BYTES_A_TURN: usize = 4 * 65536;
const READS_A_TURN: usize = 64;

/// How long to let packets gather that come very fast; sleeping takes a little longer.
const GATHER_NS: u32 = 10_000;

const WAKE: usize = 0;
const IPV4: usize = 1;
const IPV6: usize = 2;
/// The queues of the TUN device follow, and behind them the descriptors of paths.
const QUEUES: usize = 3;

/// What a worker sends and writes with.
pub struct Tools {
    /// Both directions of the TUN device.
    pub tun: TunPort,
    /// Datagrams out.
    pub udp: UdpSender,
    /// What the device makes by itself: empty whenever it is unlocked.
    pub mail: Mail,
}

impl Tools {
    /// Send and write what the device has made, while it is still locked.
    pub fn deliver_mail(&mut self, device: &mut Device, now: Instant) {
        self.mail.deliver(device, &mut self.udp, &mut self.tun, now);
    }
}

/// Everything that belongs to one thread.
pub struct Worker {
    common: Arc<Common>,
    /// The queue of the device that it serves first.
    first_queue: usize,
    tools: Tools,
    inbound: Inbound,
    outbound: Outbound,
    interests: Vec<Interest>,
    poller: Poller,
    sources: Sources,
    /// The number of `sources`.
    generation: u64,
    /// As many times this one's stack was wiped.
    erasures: u64,
    /// Of packets out, and the single ones of this turn.
    pace: Pace,
    singles: usize,
    gso: bool,
    gro: bool,
    manual_clock: bool,
    turns_a_call: u32,
}

impl Worker {
    /// Ready to run; `number` is its own among the workers.
    pub fn new(settings: &Settings, common: Arc<Common>, number: usize) -> Self {
        let tuns = settings.tuns.iter().copied();
        let queues: Box<[Descriptor]> = tuns.map(Descriptor).collect();
        let fds = [common.shared.wake_fd(), NO_FD, NO_FD];
        let fds = fds.into_iter().chain(settings.tuns.iter().copied());
        let mut worker = Self {
            first_queue: number % queues.len().max(1),
            tools: Tools {
                tun: TunPort::new(queues, settings.vnet_hdr, settings.tso, settings.uso),
                udp: UdpSender::new(Kernel, settings.gso, settings.max_segments),
                mail: Mail::default(),
            },
            inbound: Inbound::new(settings.batches),
            outbound: Outbound::new(settings.batches, settings.max_segments),
            interests: fds.map(|fd| Interest { fd, ready: true }).collect(),
            poller: Poller::default(),
            sources: Sources::default(),
            generation: 0,
            erasures: 0,
            pace: Pace::default(),
            singles: 0,
            gso: settings.gso,
            gro: settings.gro,
            manual_clock: settings.now != 0,
            turns_a_call: if settings.eager { 1 } else { TURNS_A_CALL },
            common,
        };
        worker.use_sources();
        worker.tell_used();
        worker
    }

    /// Where the descriptors of paths begin in `interests`.
    fn paths(&self) -> usize {
        QUEUES + self.common.outbound.len()
    }

    // --- one turn -----------------------------------------------------------------------

    fn turn(&mut self) {
        if self.generation != self.common.generation() {
            self.use_sources();
        }
        for source in [IPV4, IPV6]
            .into_iter()
            .chain(self.paths()..self.interests.len())
        {
            if self.interests[source].ready {
                self.receive(source);
                // What was just written to the device often has its answer waiting there.
                self.note_tun_ready();
            }
        }
        let queues = self.common.outbound.len();
        for index in 0..queues {
            let queue = (self.first_queue + index) % queues;
            if self.interests[QUEUES + queue].ready {
                self.send(queue);
            }
        }
        self.wipe_traces();
        if self.tools.tun.gone() != 0 && self.common.note_device_gone() {
            let errno = self.tools.tun.gone();
            self.common.shared.events.add(Event::DeviceGone { errno });
        }
        if self.tools.tun.take_change() || self.tools.udp.gso() != self.gso {
            self.tell_used();
        }
    }

    fn note_tun_ready(&mut self) {
        for queue in 0..self.common.outbound.len() {
            self.interests[QUEUES + queue].ready = self.tools.tun.fd(queue) >= 0;
        }
    }

    fn receive(&mut self, at: usize) {
        let paths = self.paths();
        let path = at.checked_sub(paths).map(|path| self.sources.paths[path].0);
        let (mut bytes, mut reads) = (0, 0);
        while bytes < BYTES_A_TURN && reads < READS_A_TURN {
            reads += 1;
            let Some(entrance) = enter(&self.common.inbound, &self.common, self.generation) else {
                return;
            };
            let fd = self.interests[at].fd;
            let read = match path {
                Some(path) => self.inbound.read_path(path, fd, &self.common),
                None => self.inbound.read(fd, &self.common),
            };
            match read {
                Ok(arrival) => {
                    bytes += arrival.size();
                    let ticket = entrance.take_ticket();
                    self.inbound
                        .deliver(&arrival, &ticket, &self.common, &mut self.tools);
                }
                Err(Nothing::Yet) => {}
                Err(Nothing::Left) => {
                    self.interests[at].ready = false;
                    return;
                }
                // What is sent there is lost from now on.
                Err(Nothing::Ever) => {
                    self.interests[at] = Interest {
                        fd: NO_FD,
                        ready: false,
                    };
                    return;
                }
            }
        }
    }

    fn send(&mut self, queue: usize) {
        let (mut bytes, mut frames) = (0, 0);
        while bytes < BYTES_A_TURN && frames < READS_A_TURN {
            let lane = &self.common.outbound[queue];
            let Some(entrance) = enter(lane, &self.common, self.generation) else {
                return;
            };
            let moved = self
                .outbound
                .run(queue, entrance, &self.common, &mut self.tools);
            bytes += moved.bytes;
            frames += moved.frames;
            self.singles += moved.singles;
            if !moved.more {
                self.interests[QUEUES + queue].ready = false;
                return;
            }
        }
    }

    /// What ciphers left on the stack goes with the keys.
    #[inline]
    fn wipe_traces(&mut self) {
        let erasures = self.common.erasures();
        if self.erasures != erasures {
            self.erasures = erasures;
            wipe_stack();
        }
    }

    /// Let packets gather that come one by one, very fast.
    fn keep_pace(&mut self) {
        let singles = core::mem::take(&mut self.singles);
        if singles > 0 && self.pace.note(singles, self.common.shared.now()) {
            sys::pause(GATHER_NS);
        }
    }

    // --- waiting ------------------------------------------------------------------------

    fn rest(&mut self) {
        let common = Arc::clone(&self.common);
        let shared = &common.shared;
        if self.manual_clock {
            // Whoever moves the clock also wants to know when there is really nothing.
            self.look(0);
            if shared.is_pending() || self.interests[IPV4..].iter().any(|one| one.ready) {
                return;
            }
        }
        let mut has_watched = false;
        let watch = || {
            has_watched = true;
            self.look(-1);
            // Nobody else does: who is awake needs no bell, and who watches must hear it.
            if self.interests[WAKE].ready {
                shared.still();
            }
        };
        common.roster.rest(|| shared.note_rest(), watch);
        if !has_watched {
            // Who slept has seen nothing of what came meanwhile.
            for one in &mut self.interests {
                one.ready |= one.fd >= 0;
            }
        }
    }

    fn look(&mut self, timeout_ms: i32) {
        for queue in 0..self.common.outbound.len() {
            self.interests[QUEUES + queue].fd = self.tools.tun.fd(queue);
        }
        self.poller.wait(&mut self.interests, timeout_ms);
    }

    // --- commands -----------------------------------------------------------------------

    /// Carry out what waits, unless another worker is at it.
    fn carry_out_commands(&mut self) {
        let common = Arc::clone(&self.common);
        let Ok(_at_it) = common.commands.try_lock() else {
            return;
        };
        common.shared.begin_commands();
        // Everything that is under way ends first, and nothing begins meanwhile.
        let lanes = core::iter::once(&common.inbound).chain(common.outbound.iter());
        let Some(_paused) = lanes.map(Lane::pause).collect::<Option<Vec<_>>>() else {
            return;
        };
        let generation = common.generation();
        if self.generation != generation {
            self.use_sources();
        }
        while let Some((number, batch)) = common.shared.next_batch() {
            let now = common.shared.now();
            common.with_device(|device| {
                for command in batch {
                    self.carry_out(command, now, device);
                }
                self.tools.deliver_mail(device, now);
            });
            self.wipe_traces();
            common.shared.announce();
            common.shared.acknowledge(number);
        }
        if common.generation() != generation {
            // Whoever watches the descriptors watches the old ones.
            common.shared.rouse();
        }
    }

    fn carry_out(&mut self, command: Command, now: Instant, device: &mut Device) {
        let change: &dyn Fn(&mut Sources) = match command {
            Command::ReplaceSockets { ipv4, ipv6 } => &move |sources| {
                (sources.ipv4, sources.ipv6) = (ipv4, ipv6);
            },
            Command::AddPath { path, descriptor } => &move |sources| {
                sources.paths.retain(|&(known, _)| known != path);
                sources.paths.push((path, descriptor));
            },
            Command::RemovePath { path } => &move |sources| {
                sources.paths.retain(|&(known, _)| known != path);
            },
            _ => return device.apply(command, now, &mut self.tools.mail),
        };
        // What was to be sent goes by the way that it was meant for.
        self.tools.deliver_mail(device, now);
        self.common.change_sources(change);
        self.use_sources();
        device.apply(command, now, &mut self.tools.mail);
    }

    /// Send to, receive from and look at the present sources.
    fn use_sources(&mut self) {
        let (generation, sources) = self.common.sources();
        let paths = self.paths();
        self.interests.truncate(paths);
        let fds = sources.paths.iter().map(|&(_, fd)| fd);
        self.interests
            .extend(fds.map(|fd| Interest { fd, ready: true }));
        for (at, fd) in [(IPV4, sources.ipv4), (IPV6, sources.ipv6)] {
            if fd >= 0 && !self.gro {
                sys::disable_gro(fd);
            }
            self.interests[at] = Interest { fd, ready: fd >= 0 };
        }
        self.tools
            .udp
            .use_sources(sources.ipv4, sources.ipv6, &sources.paths);
        (self.generation, self.sources) = (generation, sources);
        self.tell_used();
    }

    // --- what others are told -----------------------------------------------------------

    fn tell_used(&mut self) {
        let offers = self.tools.tun.offers();
        let sockets: [RawFd; 2] = [self.interests[IPV4].fd, self.interests[IPV6].fd];
        self.gso = self.tools.udp.gso();
        self.common.shared.set_used(Used {
            tso: offers.tso,
            uso: offers.uso,
            gso: self.gso,
            gro: sockets.into_iter().any(|fd| fd >= 0 && sys::has_gro(fd)),
            writes_refused: self.tools.tun.refused(),
            sends_refused: self.tools.udp.refused(),
        });
    }
}

/// Enter a lane, unless the engine ends, or reads from sources that are no more.
fn enter<'a>(lane: &'a Lane, common: &Common, generation: u64) -> Option<Entrance<'a>> {
    lane.enter().filter(|_| common.generation() == generation)
}

impl Run for Worker {
    fn run(&mut self) {
        let mut turns = 0;
        while !self.common.shared.is_stopped() {
            if self.common.shared.is_pending() {
                self.carry_out_commands();
            }
            self.turn();
            self.common.shared.announce();
            self.keep_pace();
            turns += 1;
            if !self.interests[IPV4..].iter().any(|one| one.ready) {
                self.rest();
                turns = 0;
                continue;
            }
            if turns % TURNS_A_LOOK == 0 {
                self.look(0);
            }
            if turns % self.turns_a_call == 0 {
                self.common.roster.call_one();
            }
        }
    }

    fn wipe(&mut self) {
        self.common.leave();
        wipe_stack();
    }
}
