//! Where a frame of the guest goes, by what it says of itself. Whatever is not known to be harmless goes nowhere.

use std::net::Ipv4Addr;

use super::{GATEWAY, GUEST};

/// A frame's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the gateway, which is this process.
    Inside,
    /// To the host's network.
    Outside,
    /// It is dropped.
    Nowhere,
}

/// Length of an Ethernet header, in bytes.
const ETHERNET_BYTES: usize = 14;

/// Broadcast in the guest's own network.
const NETWORK_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 255);

/// The way of a frame that the guest has sent.
pub fn of(frame: &[u8]) -> Way {
    let Some((header, packet)) = frame.split_at_checked(ETHERNET_BYTES) else { return Way::Nowhere };
    match header[12..] {
        [0x08, 0x00] => of_packet(packet),
        [0x08, 0x06] => of_question(packet),
        _ => Way::Nowhere,
    }
}

/// IPv4, RFC 791.
fn of_packet(packet: &[u8]) -> Way {
    let (Some(source), Some(destination)) = (address(packet, 12), address(packet, 16)) else {
        return Way::Nowhere;
    };
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return Way::Nowhere;
    }
    if matches!(destination, GATEWAY | NETWORK_BROADCAST | Ipv4Addr::BROADCAST) {
        // The gateway does not put fragments together: more of them (a flag), or an offset of this one.
        let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
        return if is_fragment { Way::Nowhere } else { Way::Inside };
    }
    // The first octet 0 is this host's own in Linux as in RFC 1122, 3.2.1.3; from 224 on it is no single station.
    let is_station = !matches!(destination.octets()[0], 0 | 127 | 224..) && destination != GUEST;
    if is_station && source == GUEST { Way::Outside } else { Way::Nowhere }
}

/// ARP, RFC 826: the gateway answers for itself, passt for all others.
fn of_question(packet: &[u8]) -> Way {
    match address(packet, 24) {
        Some(GATEWAY) => Way::Inside,
        Some(GUEST) | None => Way::Nowhere,
        Some(_) => Way::Outside,
    }
}

fn address(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn ethernet(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
        [&[2; 12], kind.as_slice(), packet].concat()
    }

    fn packet(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut packet = vec![0x45; 20];
        // It may not be cut.
        packet[6..8].copy_from_slice(&[0x40, 0]);
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&destination.octets());
        ethernet([8, 0], &packet)
    }

    fn question(target: Ipv4Addr) -> Vec<u8> {
        ethernet([8, 6], &[&[0; 24], target.octets().as_slice()].concat())
    }

    #[test]
    fn the_table_of_destinations() {
        use Way::{Inside, Nowhere, Outside};
        for (destination, of_packets, of_questions) in [
            ("10.0.2.1", Inside, Inside),
            ("10.0.2.2", Nowhere, Nowhere),
            ("10.0.2.3", Outside, Outside),
            ("10.0.2.4", Outside, Outside),
            ("10.0.2.255", Inside, Outside),
            ("255.255.255.255", Inside, Outside),
            ("192.0.2.7", Outside, Outside),
            ("126.255.255.255", Outside, Outside),
            ("127.0.0.0", Nowhere, Outside),
            ("127.0.0.1", Nowhere, Outside),
            ("127.88.0.9", Nowhere, Outside),
            ("127.255.255.255", Nowhere, Outside),
            ("128.0.0.1", Outside, Outside),
            ("0.0.0.0", Nowhere, Outside),
            ("0.1.2.3", Nowhere, Outside),
            ("1.0.0.1", Outside, Outside),
            ("223.255.255.255", Outside, Outside),
            ("224.0.0.1", Nowhere, Outside),
            ("240.0.0.1", Nowhere, Outside),
            ("255.255.255.254", Nowhere, Outside),
        ] {
            let address: Ipv4Addr = destination.parse().unwrap();
            assert_eq!(of(&packet(GUEST, address)), of_packets, "{destination}");
            assert_eq!(of(&question(address)), of_questions, "{destination}");
        }
    }

    #[test]
    fn only_the_guests_own_address_goes_outside() {
        let outside = Ipv4Addr::new(192, 0, 2, 7);
        for source in ["0.0.0.0", "127.0.0.1", "10.0.2.1", "10.0.2.5", "192.0.2.7"] {
            assert_eq!(of(&packet(source.parse().unwrap(), outside)), Way::Nowhere, "{source}");
        }
        // A client of DHCP has no address yet.
        assert_eq!(of(&packet(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)), Way::Inside);
    }

    #[test]
    fn a_fragment_goes_outside_and_not_to_the_gateway() {
        let outside = Ipv4Addr::new(192, 0, 2, 7);
        for flags_and_offset in [[0x20, 0], [0x20, 1], [0, 1], [0x1f, 0]] {
            for (destination, way) in [(GATEWAY, Way::Nowhere), (outside, Way::Outside)] {
                let mut fragment = packet(GUEST, destination);
                fragment[ETHERNET_BYTES + 6..][..2].copy_from_slice(&flags_and_offset);
                assert_eq!(of(&fragment), way, "{flags_and_offset:x?}");
            }
        }
    }

    #[test]
    fn what_is_no_ipv4_goes_nowhere() {
        let good = packet(GUEST, Ipv4Addr::new(192, 0, 2, 7));
        for kind in [[0x86, 0xdd], [0x81, 0x00], [0x88, 0xcc], [0, 40]] {
            assert_eq!(of(&ethernet(kind, &good[ETHERNET_BYTES..])), Way::Nowhere, "{kind:x?}");
        }
        let mut version_6 = good.clone();
        version_6[ETHERNET_BYTES] = 0x65;
        assert_eq!(of(&version_6), Way::Nowhere);
    }

    proptest! {
        /// However a frame is cut or made up, nothing of it goes outside but a whole IPv4 header to a single station.
        #[test]
        fn nothing_odd_goes_outside(frame in prop::collection::vec(any::<u8>(), 0..60)) {
            if of(&frame) == Way::Outside && frame[12..14] == [8, 0] {
                let destination = frame[30];
                prop_assert!(frame.len() >= 34 && frame[14] >> 4 == 4);
                prop_assert!(destination != 0 && destination != 127 && destination < 224);
            }
        }
    }
}
