//! Cryptokey routing: which peer an address belongs to, by the longest prefix.
//!
//! One table serves the whole device, in both directions: where a packet goes, and whether
//! the peer that it came from may use its source (WireGuard paper, section 2).
//!
//! It is a path-compressed binary trie in one piece of memory: a node for each prefix and
//! one for each place where two part ways. The prefixes of a peer are a list through the
//! nodes, so that a peer goes in the time that its own prefixes take.

use core::net::IpAddr;

use crate::prefix::{Prefix, left_aligned, mask};

/// No node, no owner.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    network: u128,
    length: u8,
    owner: u32,
    parent: u32,
    children: [u32; 2],
    /// The list of the owner's nodes.
    before: u32,
    after: u32,
}

/// Maps addresses to peers. `P` is a small number that names a peer.
///
/// INVARIANT: a node without an owner has two children. Children are longer than their
/// parent, and within it.
#[derive(Debug)]
pub struct AllowedIps<P> {
    nodes: Vec<Node>,
    free: Vec<u32>,
    roots: [u32; 2],
    /// The first node of each owner's list.
    owned: Vec<u32>,
    len: usize,
    owner_type: core::marker::PhantomData<P>,
}

impl<P: Into<u32> + From<u32>> AllowedIps<P> {
    /// An empty table.
    pub const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            roots: [NONE; 2],
            owned: Vec::new(),
            len: 0,
            owner_type: core::marker::PhantomData,
        }
    }

    /// How many prefixes there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many nodes are in use: less than twice the prefixes.
    pub fn nodes(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// The peer whose prefix is the longest around an address.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<P> {
        let key = left_aligned(address);
        let mut at = self.roots[usize::from(address.is_ipv6())];
        let mut owner = NONE;
        while let Some(node) = self.nodes.get(at as usize) {
            if (key ^ node.network) & mask(node.length) != 0 {
                break;
            }
            if node.owner != NONE {
                owner = node.owner;
            }
            at = node.children[bit(key, node.length)];
        }
        (owner != NONE).then(|| owner.into())
    }

    /// Give a prefix to the peer, whoever had it before.
    pub fn insert(&mut self, prefix: Prefix, peer: P) {
        let at = self.node_for(prefix);
        self.disown(at);
        self.own(at, peer.into());
    }

    /// Take a prefix away from this peer; false if it is not the peer's.
    pub fn remove(&mut self, prefix: Prefix, peer: P) -> bool {
        let at = self.find(prefix);
        if at == NONE || self.nodes[at as usize].owner != peer.into() {
            return false;
        }
        self.disown(at);
        self.tidy(at);
        true
    }

    /// Take all prefixes away from the peer: in the time that its own take.
    pub fn remove_peer(&mut self, peer: P) {
        let owner: u32 = peer.into();
        while let Some(&at) = self.owned.get(owner as usize).filter(|&&at| at != NONE) {
            self.disown(at);
            self.tidy(at);
        }
    }

    /// Where this very prefix is, if it is there.
    fn find(&self, prefix: Prefix) -> u32 {
        let (network, length) = (prefix.network(), prefix.length());
        let mut at = self.roots[root_of(prefix)];
        while let Some(node) = self.nodes.get(at as usize) {
            if node.length > length || (network ^ node.network) & mask(node.length) != 0 {
                return NONE;
            }
            if node.length == length {
                return if node.owner == NONE { NONE } else { at };
            }
            at = node.children[bit(network, node.length)];
        }
        NONE
    }

    /// The node of this prefix, made if need be. The caller gives it an owner.
    fn node_for(&mut self, prefix: Prefix) -> u32 {
        let (network, length) = (prefix.network(), prefix.length());
        let root = root_of(prefix);
        let mut parent = NONE;
        let mut at = self.roots[root];
        while let Some(node) = self.nodes.get(at as usize) {
            let common = (network ^ node.network).leading_zeros() as u8;
            let common = common.min(length).min(node.length);
            if common < node.length {
                break;
            }
            if common == length {
                return at;
            }
            parent = at;
            at = node.children[bit(network, node.length)];
        }
        let new = self.allocate(network, length);
        let Some(&below) = self.nodes.get(at as usize) else {
            self.attach(root, parent, new);
            return new;
        };
        // The node there is longer than what both have in common.
        let common = (network ^ below.network).leading_zeros() as u8;
        if common >= length {
            self.attach(root, parent, new);
            self.attach(root, new, at);
        } else {
            let fork = self.allocate(network & mask(common), common);
            self.attach(root, parent, fork);
            self.attach(root, fork, at);
            self.attach(root, fork, new);
        }
        new
    }

    fn allocate(&mut self, network: u128, length: u8) -> u32 {
        let node = Node {
            network,
            length,
            owner: NONE,
            parent: NONE,
            children: [NONE; 2],
            before: NONE,
            after: NONE,
        };
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    /// Make `child` the child of `parent` that its bits say, or the root.
    fn attach(&mut self, root: usize, parent: u32, child: u32) {
        let network = self.nodes[child as usize].network;
        self.nodes[child as usize].parent = parent;
        match self.nodes.get_mut(parent as usize) {
            Some(node) => node.children[bit(network, node.length)] = child,
            None => self.roots[root] = child,
        }
    }

    fn own(&mut self, at: u32, owner: u32) {
        let wanted = owner as usize + 1;
        if self.owned.len() < wanted {
            self.owned.resize(wanted, NONE);
        }
        let first = core::mem::replace(&mut self.owned[owner as usize], at);
        if let Some(first) = self.nodes.get_mut(first as usize) {
            first.before = at;
        }
        let node = &mut self.nodes[at as usize];
        node.owner = owner;
        node.before = NONE;
        node.after = first;
        self.len += 1;
    }

    fn disown(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        let owner = core::mem::replace(&mut node.owner, NONE);
        if owner == NONE {
            return;
        }
        let (before, after) = (node.before, node.after);
        match self.nodes.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.owned[owner as usize] = after,
        }
        if let Some(after) = self.nodes.get_mut(after as usize) {
            after.before = before;
        }
        self.len -= 1;
    }

    /// Remove a node that has lost its owner, unless two ways part there, and then its
    /// parent if that was only there to part them.
    fn tidy(&mut self, at: u32) {
        let node = self.nodes[at as usize];
        let [left, right] = node.children;
        if left != NONE && right != NONE {
            return;
        }
        let child = if left == NONE { right } else { left };
        if let Some(child) = self.nodes.get_mut(child as usize) {
            child.parent = node.parent;
        }
        match self.nodes.get_mut(node.parent as usize) {
            Some(parent) => {
                let side = usize::from(parent.children[1] == at);
                parent.children[side] = child;
            }
            None => {
                let root = usize::from(self.roots[1] == at);
                self.roots[root] = child;
            }
        }
        self.free.push(at);
        if child == NONE && node.parent != NONE && self.nodes[node.parent as usize].owner == NONE {
            self.tidy(node.parent);
        }
    }
}

impl<P: Into<u32> + From<u32>> Default for AllowedIps<P> {
    fn default() -> Self {
        Self::new()
    }
}

const fn root_of(prefix: Prefix) -> usize {
    (prefix.version() == 6) as usize
}

/// The bit behind the first `length` ones; 0 behind the last.
const fn bit(network: u128, length: u8) -> usize {
    match length {
        0..128 => (network >> (127 - length)) as usize & 1,
        _ => 0,
    }
}
