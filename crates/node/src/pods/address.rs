//! Addresses of Pods: `127.88.0.0/16`, all of which are this machine's own (`127.0.0.0/8`, RFC 1122, 3.2.1.3).
//!
//! One that no living Pod has, and on whose control port nobody else listens, such as a launcher of another daemon. Where
//! the search begins depends on the Pod's UID, so that two daemons seldom try the same one.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use launcher::pod_dir::CONTROL_PORT;

/// First two numbers of all addresses.
pub(super) const NETWORK: [u8; 2] = [127, 88];

/// Addresses with 1 to 254 as their last number; 0 and 255 look like a network and a broadcast.
const COUNT: u32 = 256 * 254;

/// So many are tried.
const MOST_TRIED: u32 = 4096;

/// The addresses in use.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    taken: Arc<Mutex<HashSet<Ipv4Addr>>>,
}

/// An address that is one Pod's until this is dropped.
#[derive(Debug)]
pub(super) struct Address {
    address: Ipv4Addr,
    taken: Arc<Mutex<HashSet<Ipv4Addr>>>,
}

impl Address {
    pub(super) fn get(&self) -> Ipv4Addr {
        self.address
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

impl Addresses {
    /// Takes a free address for the Pod `uid`; `None` when none of those tried is free.
    pub(super) fn take(&self, uid: &str) -> Option<Address> {
        self.take_where(uid, |address| {
            // Nobody has to know of the listener, which is closed at once; what counts is that the port could be had.
            TcpListener::bind(SocketAddrV4::new(address, CONTROL_PORT)).is_ok()
        })
    }

    fn take_where(&self, uid: &str, is_free: impl Fn(Ipv4Addr) -> bool) -> Option<Address> {
        let start = start(uid);
        (0..MOST_TRIED).map(|step| nth((start + step) % COUNT)).find_map(|address| {
            let address = self.claim(address)?;
            is_free(address.get()).then_some(address)
        })
    }

    /// Takes exactly this address, which a running launcher has; `None` when another Pod of ours has it.
    pub(super) fn claim(&self, address: Ipv4Addr) -> Option<Address> {
        let is_new = self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
        is_new.then(|| Address { address, taken: Arc::clone(&self.taken) })
    }
}

fn nth(number: u32) -> Ipv4Addr {
    let [.., high, _] = (number / 254 * 256).to_be_bytes();
    let [.., low] = (number % 254 + 1).to_be_bytes();
    Ipv4Addr::new(NETWORK[0], NETWORK[1], high, low)
}

/// FNV-1a, 32 bits: it spreads, and nobody gains anything from a collision.
fn start(uid: &str) -> u32 {
    uid.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) % COUNT
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn all_addresses_are_in_the_network_and_different() {
        let all: HashSet<Ipv4Addr> = (0..COUNT).map(nth).collect();
        assert_eq!(all.len(), COUNT as usize);
        assert!(all.iter().all(|address| address.octets()[..2] == NETWORK));
        assert!(all.iter().all(|address| !matches!(address.octets()[3], 0 | 255)));
        assert!(all.contains(&Ipv4Addr::new(127, 88, 255, 254)));
    }

    #[test]
    fn no_two_pods_have_one_address_until_it_is_given_back() {
        let addresses = Addresses::default();
        let first = addresses.take_where("a", |_| true).unwrap();
        let second = addresses.take_where("a", |_| true).unwrap();
        assert_ne!(first.get(), second.get());
        assert!(addresses.claim(first.get()).is_none());
        let was = first.get();
        drop(first);
        assert_eq!(addresses.take_where("a", |_| true).unwrap().get(), was);
    }

    #[test]
    fn an_address_where_somebody_listens_is_passed_over() {
        let addresses = Addresses::default();
        let busy = nth(start("a"));
        assert_ne!(addresses.take_where("a", |address| address != busy).unwrap().get(), busy);
        assert!(addresses.take_where("a", |_| false).is_none(), "the search ends");
        assert!(addresses.claim(busy).is_some(), "what was not taken is not held");
    }
}
