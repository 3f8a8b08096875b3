//! The thread's loop: packets run to completion, commands come between batches of them.
//!
//! A turn moves a few batches in each direction, so that neither direction, nor commands,
//! nor the other socket waits for more than about a millisecond. It waits in the kernel
//! only when there is nothing at all to do; nothing is handed to another thread.

use std::os::fd::RawFd;
use std::sync::Arc;

use nvpn_core::aead::wipe_stack;
use nvpn_core::{Command, Device, Event, Instant};

use crate::engine::{Run, Settings, Shared, Used};
use crate::inbound::{Found, Inbound};
use crate::mail::Mail;
use crate::outbound::{Outbound, Way};
use crate::sys::{self, Interest, NO_FD, Poller};
use crate::tun::{Descriptor, TunPort};
use crate::udp::{Kernel, UdpSender};

/// Turns after which a busy engine looks at descriptors that it found empty before.
const TURNS_A_LOOK: u32 = 4;

const TUN: usize = 0;
const IPV4: usize = 1;
const IPV6: usize = 2;
const WAKE: usize = 3;
/// The descriptors of paths follow.
const PATHS: usize = 4;

/// Everything that belongs to the thread.
pub struct Worker {
    shared: Arc<Shared>,
    device: Device,
    tun: TunPort,
    udp: UdpSender,
    inbound: Inbound,
    outbound: Outbound,
    mail: Mail,
    interests: Vec<Interest>,
    /// The numbers of the paths whose descriptors are in `interests`, in their order.
    paths: Vec<u32>,
    poller: Poller,
    gso: bool,
    gro: bool,
    gone_told: bool,
    manual_clock: bool,
}

impl Worker {
    /// Ready to run.
    pub fn new(settings: Settings, shared: Arc<Shared>) -> Self {
        let device = Device::new(
            settings.mtu,
            Arc::clone(&shared.events),
            Arc::clone(&shared.drops),
            Box::new(sys::random),
        );
        let tun = TunPort::new(
            Descriptor(settings.tun),
            settings.vnet_hdr,
            settings.tso,
            settings.uso,
        );
        let fds = [settings.tun, NO_FD, NO_FD, shared.wake_fd()];
        let mut worker = Self {
            shared,
            device,
            tun,
            udp: UdpSender::new(Kernel, settings.gso, settings.max_segments),
            inbound: Inbound::new(settings.batches),
            outbound: Outbound::new(settings.batches, settings.max_segments),
            mail: Mail::default(),
            interests: fds.map(|fd| Interest { fd, ready: true }).to_vec(),
            paths: Vec::new(),
            poller: Poller::default(),
            gso: settings.gso,
            gro: settings.gro,
            gone_told: false,
            manual_clock: settings.now != 0,
        };
        worker.use_sockets(settings.ipv4, settings.ipv6);
        worker.tell_used();
        worker
    }

    // --- one turn -----------------------------------------------------------------------

    fn turn(&mut self) {
        for socket in [IPV4, IPV6] {
            if self.interests[socket].ready {
                self.receive(socket);
                // What was just written to the device often has its answer waiting there.
                self.interests[TUN].ready = self.interests[TUN].fd >= 0;
            }
        }
        for path in PATHS..self.interests.len() {
            if self.interests[path].ready {
                self.receive_from_path(path);
                self.interests[TUN].ready = self.interests[TUN].fd >= 0;
            }
        }
        // A confirmed session sets packets free that waited; none must overtake them.
        self.deliver_mail(None);
        if self.interests[TUN].ready {
            let mut way = Way {
                device: &mut self.device,
                udp: &mut self.udp,
                mail: &mut self.mail,
            };
            self.interests[TUN].ready = self.outbound.run(&mut self.tun, &self.shared, &mut way);
        }
        self.deliver_mail(None);
        self.forget_keys();
        if self.tun.gone() != 0 && !self.gone_told {
            self.tell_gone();
        }
        if self.tun.take_change() || self.udp.gso() != self.gso {
            self.tell_used();
        }
    }

    fn receive(&mut self, socket: usize) {
        let fd = self.interests[socket].fd;
        let found = self.inbound.run(
            fd,
            &self.shared,
            &mut self.device,
            &mut self.tun,
            &mut self.mail,
        );
        match found {
            Found::More => {}
            Found::Empty => self.interests[socket].ready = false,
            Found::Gone => {
                self.interests[socket] = Interest {
                    fd: NO_FD,
                    ready: false,
                }
            }
        }
    }

    fn receive_from_path(&mut self, at: usize) {
        let (path, fd) = (self.paths[at - PATHS], self.interests[at].fd);
        let found = self.inbound.run_path(
            path,
            fd,
            &self.shared,
            &mut self.device,
            &mut self.tun,
            &mut self.mail,
        );
        match found {
            Found::More => {}
            Found::Empty => self.interests[at].ready = false,
            // What is sent there is lost from now on.
            Found::Gone => {
                self.interests[at] = Interest {
                    fd: NO_FD,
                    ready: false,
                }
            }
        }
    }

    fn deliver_mail(&mut self, now: Option<Instant>) {
        if !self.mail.is_empty() {
            let now = now.unwrap_or_else(|| self.shared.now());
            self.mail
                .deliver(&mut self.device, &mut self.udp, &mut self.tun, now);
        }
    }

    /// What ciphers left on the stack goes with the keys.
    #[inline]
    fn forget_keys(&mut self) {
        if self.device.take_keys_gone() {
            wipe_stack();
        }
    }

    // --- waiting ------------------------------------------------------------------------

    fn rest(&mut self) {
        if self.manual_clock {
            // Whoever moves the clock also wants to know when there is really nothing.
            self.look(0);
            if self.interests.iter().any(|one| one.ready) {
                return;
            }
        }
        self.shared.note_rest();
        self.look(-1);
    }

    fn look(&mut self, timeout_ms: i32) {
        self.interests[TUN].fd = self.tun.fd();
        self.poller.wait(&mut self.interests, timeout_ms);
    }

    // --- commands -----------------------------------------------------------------------

    /// False when the thread is to end.
    fn carry_out_commands(&mut self) -> bool {
        self.shared.take_pending();
        if self.shared.is_stopped() {
            return false;
        }
        while let Some((number, batch)) = self.shared.next_batch() {
            let now = self.shared.now();
            for command in batch {
                self.carry_out(command, now);
            }
            self.deliver_mail(Some(now));
            self.forget_keys();
            self.shared.announce();
            self.shared.acknowledge(number);
        }
        true
    }

    fn carry_out(&mut self, command: Command, now: Instant) {
        match command {
            Command::ReplaceSockets { ipv4, ipv6 } => {
                self.deliver_mail(Some(now));
                self.use_sockets(ipv4, ipv6);
            }
            Command::AddPath { path, descriptor } => self.use_path(path, Some(descriptor), now),
            Command::RemovePath { path } => self.use_path(path, None, now),
            _ => {}
        }
        self.device.apply(command, now, &mut self.mail);
    }

    fn use_sockets(&mut self, ipv4: RawFd, ipv6: RawFd) {
        for (socket, fd) in [(IPV4, ipv4), (IPV6, ipv6)] {
            if fd >= 0 && !self.gro {
                sys::disable_gro(fd);
            }
            self.interests[socket] = Interest { fd, ready: fd >= 0 };
        }
        self.udp.use_sockets(ipv4, ipv6);
        self.tell_used();
    }

    fn use_path(&mut self, path: u32, descriptor: Option<RawFd>, now: Instant) {
        self.deliver_mail(Some(now));
        self.udp.use_path(path, descriptor);
        if let Some(at) = self.paths.iter().position(|&known| known == path) {
            self.paths.remove(at);
            self.interests.remove(PATHS + at);
        }
        if let Some(fd) = descriptor {
            self.paths.push(path);
            self.interests.push(Interest { fd, ready: true });
        }
    }

    // --- what others are told -----------------------------------------------------------

    fn tell_gone(&mut self) {
        self.gone_told = true;
        self.interests[TUN] = Interest {
            fd: NO_FD,
            ready: false,
        };
        self.shared.events.add(Event::DeviceGone {
            errno: self.tun.gone(),
        });
    }

    fn tell_used(&mut self) {
        let offers = self.tun.offers();
        let sockets = [self.interests[IPV4].fd, self.interests[IPV6].fd];
        self.gso = self.udp.gso();
        self.shared.set_used(Used {
            tso: offers.tso,
            uso: offers.uso,
            gso: self.gso,
            gro: sockets.into_iter().any(|fd| fd >= 0 && sys::has_gro(fd)),
            writes_refused: self.tun.refused(),
            sends_refused: self.udp.refused(),
        });
    }
}

impl Run for Worker {
    fn run(&mut self) {
        let mut turns = 0;
        loop {
            // Both are asked: the signal may come after what it tells of was seen.
            let roused = core::mem::take(&mut self.interests[WAKE].ready);
            if (roused || self.shared.is_pending()) && !self.carry_out_commands() {
                return;
            }
            self.turn();
            self.shared.announce();
            turns += 1;
            let ready = |one: &Interest| one.ready;
            let busy = self.interests[..WAKE].iter().any(ready)
                || self.interests[PATHS..].iter().any(ready);
            if !busy {
                self.rest();
                turns = 0;
            } else if turns % TURNS_A_LOOK == 0 {
                self.look(0);
            }
        }
    }

    fn wipe(&mut self) {
        self.device.close();
        wipe_stack();
    }
}
