//! What Python sees: one class, driven through tuples, and two descriptors to wake by.
//!
//! Commands come down as a list of tuples, events go up as such. Python is asked for
//! nothing per packet or per batch of packets, and the engine's threads never hold the GIL.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};

use nvpn_core::{
    AdmissionKeys, Command, Diversion, Endpoint, Event, NewKeypair, PeerId, PeerShared, PortFilter,
    Prefix, Role, Rule, Secret, Source, UDP_PATH, Watch, Why,
};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyTuple};
use zeroize::Zeroize;

use crate::engine::{Engine, Settings};

/// (address, port, scope, source, path, learned_at): `nvpn.model.endpoint.Endpoint`.
type EndpointFields = (Vec<u8>, u16, u32, Option<(Vec<u8>, u32)>, u32, u64);

fn wrong(what: &str) -> PyErr {
    PyValueError::new_err(what.to_owned())
}

fn address(bytes: &[u8]) -> PyResult<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(bytes).map_err(|_| wrong("an address has 4 or 16 bytes"))?;
    Ok(Ipv6Addr::from(octets).into())
}

fn endpoint_from(item: &Bound<'_, PyAny>) -> PyResult<Endpoint> {
    let (bytes, port, scope, source, path, learned_at): EndpointFields = item.extract()?;
    let remote = match bytes.as_slice() {
        [] => SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into(),
        bytes => match address(bytes)? {
            IpAddr::V4(v4) => SocketAddr::from(SocketAddrV4::new(v4, port)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
        },
    };
    let source = source
        .map(|(bytes, interface)| {
            Ok::<_, PyErr>(Source {
                address: address(&bytes)?,
                interface,
            })
        })
        .transpose()?;
    Ok(Endpoint {
        remote,
        source,
        path,
        learned_at,
    })
}

fn octets<'py>(py: Python<'py>, address: IpAddr) -> Bound<'py, PyBytes> {
    match address {
        IpAddr::V4(v4) => PyBytes::new(py, &v4.octets()),
        IpAddr::V6(v6) => PyBytes::new(py, &v6.octets()),
    }
}

fn endpoint_to<'py>(py: Python<'py>, endpoint: &Endpoint) -> PyResult<Bound<'py, PyTuple>> {
    let scope = match endpoint.remote {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    };
    let nowhere = endpoint.path != UDP_PATH && endpoint.remote.ip().is_unspecified();
    let address = if nowhere {
        PyBytes::new(py, &[])
    } else {
        octets(py, endpoint.remote.ip())
    };
    (
        address,
        endpoint.remote.port(),
        scope,
        endpoint
            .source
            .map(|source| (octets(py, source.address), source.interface)),
        endpoint.path,
        endpoint.learned_at,
    )
        .into_pyobject(py)
}

/// Copy a key out of a buffer of Python's, and zero that one.
fn take_secret(item: &Bound<'_, PyAny>) -> PyResult<Secret> {
    let buffer = item.cast::<PyByteArray>()?;
    let mut copy = buffer.to_vec();
    let secret = Secret::copy_from(&copy);
    copy.zeroize();
    for at in 0..buffer.len() {
        buffer.set_item(at, 0)?;
    }
    secret.ok_or_else(|| wrong("a key has 32 bytes"))
}

fn copy_secret(item: &Bound<'_, PyAny>) -> PyResult<Secret> {
    let bytes = item.cast::<PyBytes>()?;
    Secret::copy_from(bytes.as_bytes()).ok_or_else(|| wrong("a key has 32 bytes"))
}

fn prefix(item: &Bound<'_, PyAny>) -> PyResult<Prefix> {
    let (version, network, length): (u8, u128, u8) = item.extract()?;
    let address = match version {
        4 => u32::try_from(network)
            .ok()
            .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        _ => Some(IpAddr::V6(Ipv6Addr::from_bits(network))),
    };
    address
        .and_then(|address| Prefix::new(address, length))
        .ok_or_else(|| wrong("a prefix is longer than its address"))
}

/// (accept, peer, source, destination, protocol, source ports, destination ports).
fn rule(item: &Bound<'_, PyAny>) -> PyResult<Rule> {
    let item = item.cast::<PyTuple>()?;
    let maybe_prefix = |index: usize| -> PyResult<Option<Prefix>> {
        let given = item.get_item(index)?;
        (!given.is_none()).then(|| prefix(&given)).transpose()
    };
    Ok(Rule {
        accept: item.get_item(0)?.extract()?,
        peer: item.get_item(1)?.extract::<Option<u64>>()?.map(PeerId),
        source: maybe_prefix(2)?,
        destination: maybe_prefix(3)?,
        protocol: item.get_item(4)?.extract()?,
        source_ports: item.get_item(5)?.extract()?,
        destination_ports: item.get_item(6)?.extract()?,
    })
}

type Peers = HashMap<u64, Arc<PeerShared>>;

fn command(item: &Bound<'_, PyAny>, peers: &mut Peers) -> PyResult<Command> {
    let item = item.cast::<PyTuple>()?;
    let name: String = item.get_item(0)?.extract()?;
    let field = |index: usize| item.get_item(index);
    let peer = || -> PyResult<PeerId> { Ok(PeerId(field(1)?.extract()?)) };
    let is_diverted = || -> PyResult<bool> { Ok(item.len() > 3 && field(3)?.extract()?) };
    Ok(match name.as_str() {
        "create" => {
            let peer = peer()?;
            let shared = Arc::new(PeerShared::default());
            peers.insert(peer.0, Arc::clone(&shared));
            Command::CreatePeer { peer, shared }
        }
        "destroy" => {
            let peer = peer()?;
            peers.remove(&peer.0);
            Command::DestroyPeer { peer }
        }
        "insert" => Command::InsertPrefix {
            peer: peer()?,
            prefix: prefix(&field(2)?)?,
            diverted: is_diverted()?,
        },
        "delete" => Command::DeletePrefix {
            peer: peer()?,
            prefix: prefix(&field(2)?)?,
            diverted: is_diverted()?,
        },
        "endpoint" => {
            let given = field(2)?;
            let endpoint = if given.is_none() {
                None
            } else {
                Some(endpoint_from(&given)?)
            };
            Command::SetPeerEndpoint {
                peer: peer()?,
                endpoint,
            }
        }
        "install" => {
            let is_initiator: bool = field(2)?.extract()?;
            Command::InstallKeypair {
                peer: peer()?,
                keypair: NewKeypair {
                    role: if is_initiator {
                        Role::Initiator
                    } else {
                        Role::Responder
                    },
                    our_index: field(3)?.extract()?,
                    their_index: field(4)?.extract()?,
                    send_key: take_secret(&field(5)?)?,
                    receive_key: take_secret(&field(6)?)?,
                    born_at: field(7)?.extract()?,
                },
            }
        }
        "stop" => Command::StopSending { peer: peer()? },
        "erase" => Command::EraseKeys { peer: peer()? },
        "drop" => Command::DropStaged { peer: peer()? },
        "keepalive" => Command::SendKeepalive { peer: peer()? },
        "handshake" => Command::SendHandshake {
            peer: peer()?,
            datagram: field(2)?.cast::<PyBytes>()?.as_bytes().into(),
            forget_source: field(3)?.extract()?,
            // Sent only when there are any.
            also: match item.len() {
                4 => Box::default(),
                _ => field(4)?
                    .try_iter()?
                    .map(|endpoint| endpoint_from(&endpoint?))
                    .collect::<PyResult<_>>()?,
            },
        },
        "touch" => Command::Touch {
            peer: peer()?,
            received_bytes: field(2)?.extract()?,
            at: field(3)?.extract()?,
        },
        "admission" => {
            let keys = if (1..4).any(|index| field(index).is_ok_and(|key| key.is_none())) {
                None
            } else {
                Some(AdmissionKeys {
                    mac1_key: copy_secret(&field(1)?)?,
                    cookie_key: copy_secret(&field(2)?)?,
                    secret: copy_secret(&field(3)?)?,
                })
            };
            Command::SetAdmission { keys }
        }
        "mtu" => Command::SetMtu {
            mtu: field(1)?.extract()?,
        },
        "sockets" => Command::ReplaceSockets {
            ipv4: field(1)?.extract()?,
            ipv6: field(2)?.extract()?,
        },
        "filter" => {
            let rules = field(1)?;
            let filter = if rules.is_none() {
                None
            } else {
                let rules = rules
                    .try_iter()?
                    .map(|item| rule(&item?))
                    .collect::<PyResult<Vec<_>>>()?;
                let (otherwise, remember) = (field(2)?.extract()?, field(3)?.extract()?);
                Some(PortFilter::new(&rules, otherwise, remember))
            };
            Command::SetFilter { filter }
        }
        "divert" => Command::Divert {
            diversions: field(1)?
                .try_iter()?
                .map(|item| {
                    let (place, port): (Bound<'_, PyAny>, u16) = item?.extract()?;
                    let prefix = prefix(&place)?;
                    Ok(Diversion { prefix, port })
                })
                .collect::<PyResult<_>>()?,
        },
        "inner" => Command::SendInner {
            packet: field(1)?.cast::<PyBytes>()?.as_bytes().into(),
        },
        "add path" => Command::AddPath {
            path: field(1)?.extract()?,
            descriptor: field(2)?.extract()?,
        },
        "remove path" => Command::RemovePath {
            path: field(1)?.extract()?,
        },
        other => return Err(wrong(&format!("there is no command {other}"))),
    })
}

fn why(why: Why) -> &'static str {
    match why {
        Why::NoKey => "NO_KEY",
        Why::OldSending => "OLD_SENDING",
        Why::OldReceiving => "OLD_RECEIVING",
        Why::ManyMessages => "MANY_MESSAGES",
    }
}

fn event<'py>(py: Python<'py>, event: Event) -> PyResult<Bound<'py, PyTuple>> {
    match event {
        Event::HandshakeReceived {
            datagram,
            endpoint,
            received_at,
        } => (
            "HandshakeReceived",
            PyBytes::new(py, &datagram),
            endpoint_to(py, &endpoint)?,
            received_at,
        )
            .into_pyobject(py),
        Event::HandshakeWanted { peer, why: reason } => {
            ("HandshakeWanted", peer.0, why(reason)).into_pyobject(py)
        }
        Event::KeypairConfirmed {
            peer,
            our_index,
            at,
        } => ("KeypairConfirmed", peer.0, our_index, at).into_pyobject(py),
        Event::KeypairGone { peer, our_index } => {
            ("KeypairGone", peer.0, our_index).into_pyobject(py)
        }
        Event::EndpointRoamed { peer, endpoint } => {
            ("EndpointRoamed", peer.0, endpoint_to(py, &endpoint)?).into_pyobject(py)
        }
        Event::DataSent { peer } => ("DataSent", peer.0).into_pyobject(py),
        Event::DataReceived { peer } => ("DataReceived", peer.0).into_pyobject(py),
        Event::InnerReceived { peer, packet } => {
            ("InnerReceived", peer.0, PyBytes::new(py, &packet)).into_pyobject(py)
        }
        Event::DeviceGone { errno } => ("DeviceGone", errno).into_pyobject(py),
        Event::Failed { message } => ("Failed", message).into_pyobject(py),
    }
}

/// A running engine: threads between a TUN device and UDP sockets.
#[pyclass(name = "Engine", module = "nvpn._native", frozen)]
pub struct PyEngine {
    engine: Engine,
    peers: Mutex<Peers>,
}

impl PyEngine {
    fn peer(&self, peer: u64) -> Option<Arc<PeerShared>> {
        self.peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&peer)
            .cloned()
    }
}

#[pymethods]
impl PyEngine {
    #[new]
    #[pyo3(signature = (
        tuns, *, vnet_hdr, tso, uso, ipv4, ipv6, gso, gro, batches, mtu, max_segments, now,
        workers = 1, eager = false
    ))]
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)]
    fn new(
        tuns: Vec<i32>,
        vnet_hdr: bool,
        tso: bool,
        uso: bool,
        ipv4: i32,
        ipv6: i32,
        gso: bool,
        gro: bool,
        batches: bool,
        mtu: u32,
        max_segments: usize,
        now: u64,
        workers: usize,
        eager: bool,
    ) -> PyResult<Self> {
        if tuns.is_empty() || workers == 0 {
            return Err(wrong("an engine has a device and a worker"));
        }
        let settings = Settings {
            tuns,
            vnet_hdr,
            tso,
            uso,
            ipv4,
            ipv6,
            gso,
            gro,
            batches,
            mtu,
            max_segments,
            workers,
            eager,
            now,
        };
        let engine = Engine::start(&settings).map_err(|errno| {
            PyOSError::new_err((errno, "the engine of the native datapath cannot start"))
        })?;
        Ok(Self {
            engine,
            peers: Mutex::default(),
        })
    }

    /// Becomes readable when `take_events` or `acknowledged` has something new.
    fn fileno(&self) -> i32 {
        self.engine.news_fd()
    }

    /// Make it unreadable again; call this first, and then look.
    fn clear_news(&self) {
        self.engine.clear_news();
    }

    /// Queue a batch of commands; returns its number.
    fn submit(&self, commands: &Bound<'_, PyList>) -> PyResult<u64> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = commands
            .iter()
            .map(|item| command(&item, &mut peers))
            .collect::<PyResult<Vec<Command>>>()?;
        Ok(self.engine.submit(batch))
    }

    /// The number of the latest batch that is in force.
    fn acknowledged(&self) -> u64 {
        self.engine.acknowledged()
    }

    /// What happened, oldest first.
    fn take_events<'py>(
        &self,
        py: Python<'py>,
        max_handshakes: usize,
    ) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        self.engine
            .take_events(max_handshakes)
            .into_iter()
            .map(|one| event(py, one))
            .collect()
    }

    /// Whether `take_events` would give anything.
    fn has_events(&self) -> bool {
        self.engine.has_events()
    }

    /// Set or clear a watch over data sent, or else over data received.
    fn watch(&self, peer: u64, sent: bool, watched: bool) {
        if let Some(shared) = self.peer(peer) {
            let what = if sent {
                Watch::DataSent
            } else {
                Watch::DataReceived
            };
            shared.watch(what, watched);
        }
    }

    /// The peer's instants, or None for one that is not known.
    fn activity(&self, peer: u64) -> Option<(u64, u64, u64, u64, u64)> {
        self.peer(peer).map(|shared| {
            let activity = shared.activity();
            (
                activity.data_sent_at,
                activity.data_received_at,
                activity.last_data_received_at,
                activity.last_sent_at,
                activity.last_received_at,
            )
        })
    }

    /// The peer's traffic, or None for one that is not known.
    fn counters(&self, peer: u64) -> Option<(u64, u64, u64, u64, u64)> {
        self.peer(peer).map(|shared| {
            let counters = shared.counters();
            (
                counters.rx_bytes,
                counters.tx_bytes,
                counters.rx_packets,
                counters.tx_packets,
                counters.filtered,
            )
        })
    }

    /// (name, count) of what was dropped.
    fn drops(&self) -> Vec<(&'static str, u64)> {
        self.engine
            .drops()
            .iter()
            .map(|(reason, count)| (reason.name(), count))
            .collect()
    }

    /// What is in use now: TSO, USO, GSO, GRO.
    fn offloads(&self) -> (bool, bool, bool, bool) {
        let used = self.engine.offloads();
        (used.tso, used.uso, used.gso, used.gro)
    }

    /// Whether the kernel refused merged writes to the device, merged sends.
    fn refused(&self) -> (bool, bool) {
        let used = self.engine.offloads();
        (used.writes_refused, used.sends_refused)
    }

    /// Go by this clock from now on, which only this call moves; for tests.
    fn set_clock(&self, now: u64) {
        self.engine.set_clock(now);
    }

    /// How often the engine found nothing to do.
    fn rests(&self) -> u64 {
        self.engine.rests()
    }

    /// End the threads and zero all keys; descriptors stay open.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.engine.close());
        self.peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// The module `nvpn._native`.
#[pymodule]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<PyEngine>()
}
