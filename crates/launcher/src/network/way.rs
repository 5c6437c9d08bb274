//! Where a frame of the guest goes, by what it says of itself. Whatever is not known to be harmless goes nowhere.
//!
//! | to | goes |
//! |---|---|
//! | 10.0.2.1, 10.0.2.255, 255.255.255.255 | inside, if it is whole |
//! | 10.0.2.3, the name server | outside: a whole segment or datagram to port 53 |
//! | 10.0.2.4, the host's loopback | outside, if the manifest opens that |
//! | all else of 10.0.2.0/24, in which there is nobody else | nowhere |
//! | 127.0.0.0/8, 0.0.0.0/8, from 224.0.0.0 on | nowhere |
//! | any other station | outside |
//!
//! The programs outside make more of these addresses than the guest may have, and have no option against it:
//!
//! - passt connects to 127.0.0.1 when a guest sends a packet there (seen with 0.0~git20230309), and so does libslirp.
//! - libslirp takes its own address and 255.255.255.255 for 127.0.0.1, before its version 4.2.0 the whole of its network
//!   (`sotranslate_out` in `socket.c`, as for all that follows). Where nobody may send an echo request, it sends a datagram to
//!   port 7 in its place (`ip_icmp.c`).
//! - Its name server is the host's first one, which is often on the loopback; before 4.3.0 by any port.
//! - At its own address it answers DHCP, TFTP (without files) and echo requests itself. A guest gets there where the host's
//!   loopback is open, and nothing of it but the address of its network.
//!
//! Of a datagram in fragments only the first has a port.

use std::net::Ipv4Addr;

use super::{GATEWAY, GUEST, HOST, HostLoopback, NAME_SERVER, NETWORK, PREFIX_LENGTH};

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

/// Where a name server listens (RFC 1035, 4.2), by both protocols with ports: TCP (6) and UDP (17).
const NAMES_PORT: u16 = 53;
const WITH_PORTS: [u8; 2] = [6, 17];

/// The way of a frame that the guest has sent.
pub fn of(frame: &[u8], host_loopback: HostLoopback) -> Way {
    let Some((header, packet)) = frame.split_at_checked(ETHERNET_BYTES) else { return Way::Nowhere };
    match header[12..] {
        [0x08, 0x00] => of_packet(packet, host_loopback),
        [0x08, 0x06] => of_question(packet),
        _ => Way::Nowhere,
    }
}

/// IPv4, RFC 791.
fn of_packet(packet: &[u8], host_loopback: HostLoopback) -> Way {
    let (Some(source), Some(destination)) = (address(packet, 12), address(packet, 16)) else {
        return Way::Nowhere;
    };
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return Way::Nowhere;
    }
    // More of them (a flag), or an offset of this one. The gateway does not put fragments together.
    let is_whole = packet[6] & 0x3f == 0 && packet[7] == 0;
    if matches!(destination, GATEWAY | NETWORK_BROADCAST | Ipv4Addr::BROADCAST) {
        return if is_whole { Way::Inside } else { Way::Nowhere };
    }
    let is_open = match destination {
        NAME_SERVER => is_whole && port(packet) == Some(NAMES_PORT),
        HOST => host_loopback == HostLoopback::Open,
        _ if is_in_network(destination) => false,
        // The first octet 0 is this host's own in Linux as in RFC 1122, 3.2.1.3; from 224 on it is no single station.
        _ => !matches!(destination.octets()[0], 0 | 127 | 224..),
    };
    if is_open && source == GUEST { Way::Outside } else { Way::Nowhere }
}

/// Whether an address is one of the guest's own network.
fn is_in_network(address: Ipv4Addr) -> bool {
    (address.to_bits() ^ NETWORK.to_bits()) >> (32 - PREFIX_LENGTH) == 0
}

/// The port that the first or only fragment of a packet of TCP or UDP goes to.
fn port(packet: &[u8]) -> Option<u16> {
    let header_bytes = usize::from(packet[0] & 0xf) * 4;
    let port: [u8; 2] = packet.get(header_bytes + 2..header_bytes + 4)?.try_into().ok()?;
    (header_bytes >= 20 && WITH_PORTS.contains(&packet[9])).then(|| u16::from_be_bytes(port))
}

/// ARP, RFC 826: the gateway answers for itself, who is outside for all others; and hears there where the guest is.
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

    /// What is opened by nobody.
    fn of(frame: &[u8]) -> Way {
        super::of(frame, HostLoopback::Closed)
    }

    fn packet(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut packet = vec![0x45; 24];
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
            ("10.0.1.255", Outside, Outside),
            ("10.0.2.0", Nowhere, Outside),
            ("10.0.2.3", Nowhere, Outside),
            ("10.0.2.4", Nowhere, Outside),
            ("10.0.2.5", Nowhere, Outside),
            ("10.0.2.254", Nowhere, Outside),
            ("10.0.2.255", Inside, Outside),
            ("10.0.3.0", Outside, Outside),
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
            // The manifest opens one address, and no other.
            let of_packets = if address == HOST { Outside } else { of_packets };
            assert_eq!(super::of(&packet(GUEST, address), HostLoopback::Open), of_packets, "{destination}");
        }
    }

    #[test]
    fn a_name_server_is_asked_by_its_port_alone() {
        let segment = |header_words: u8, protocol: u8, port: u16| {
            let mut packet = packet(GUEST, NAME_SERVER);
            packet.resize(ETHERNET_BYTES + 60 + 20, 0xff);
            packet[ETHERNET_BYTES] = 0x40 | header_words;
            packet[ETHERNET_BYTES + 9] = protocol;
            let at = ETHERNET_BYTES + usize::from(header_words) * 4 + 2;
            packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
            packet
        };
        for (protocol, port, way) in [
            (6, 53, Way::Outside),
            (17, 53, Way::Outside),
            (6, 52, Way::Nowhere),
            (17, 54, Way::Nowhere),
            (6, 53 << 8, Way::Nowhere),
            (17, 0, Way::Nowhere),
            (17, 69, Way::Nowhere),
            // ICMP, DCCP, SCTP, UDP-Lite.
            (1, 53, Way::Nowhere),
            (33, 53, Way::Nowhere),
            (132, 53, Way::Nowhere),
            (136, 53, Way::Nowhere),
        ] {
            // Without options, with some, with as many as there can be; and with a header that is none.
            for (header_words, expected) in [(5, way), (6, way), (15, way), (0, Way::Nowhere)] {
                let segment = segment(header_words, protocol, port);
                assert_eq!(of(&segment), expected, "{header_words} {protocol} {port}");
                // Options are no segment: port 53 there is nothing.
                if header_words > 5 {
                    let mut hidden = segment.clone();
                    hidden[ETHERNET_BYTES + 22..][..2].copy_from_slice(&53_u16.to_be_bytes());
                    assert_eq!(of(&hidden), expected, "{header_words} {protocol} {port}");
                }
            }
        }
        let good = segment(5, 17, 53);
        assert_eq!(of(&good[..ETHERNET_BYTES + 24]), Way::Outside);
        assert_eq!(of(&good[..ETHERNET_BYTES + 23]), Way::Nowhere, "there is no port");
        let mut from_another = good.clone();
        from_another[ETHERNET_BYTES + 15] = 5;
        assert_eq!(of(&from_another), Way::Nowhere);
        for flags_and_offset in [[0x20, 0], [0x20, 1], [0, 1], [0x1f, 0]] {
            let mut fragment = good.clone();
            fragment[ETHERNET_BYTES + 6..][..2].copy_from_slice(&flags_and_offset);
            assert_eq!(of(&fragment), Way::Nowhere, "{flags_and_offset:x?}");
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

    /// Frames of the guest's to its own network or its neighbours, with anything in the bytes that count.
    fn nearly_good() -> impl Strategy<Value = Vec<u8>> {
        let version = 0x43_u8..0x50;
        let fragment = prop_oneof![Just([0_u8, 0]), Just([0x40, 0]), any::<[u8; 2]>()];
        let protocol = prop_oneof![Just(6_u8), Just(17), any::<u8>()];
        let third_and_last = (1_u8..4, prop_oneof![0_u8..8, any::<u8>()]);
        let rest = prop::collection::vec(prop_oneof![Just(0_u8), Just(53), any::<u8>()], 0..50);
        (version, fragment, protocol, third_and_last, rest).prop_map(
            |(version, fragment, protocol, (third, last), rest)| {
                let mut packet = vec![version, 0, 0, 60, 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0];
                packet.extend(GUEST.octets());
                packet.extend([10, 0, third, last]);
                packet.extend(rest);
                ethernet([8, 0], &packet)
            },
        )
    }

    proptest! {
        /// However a frame is cut or made up, nothing of it goes outside but a whole IPv4 header of the guest to a single
        /// station; in its own network, to the name server's port and the host that is opened.
        #[test]
        fn nothing_odd_goes_outside(
            frame in prop_oneof![prop::collection::vec(any::<u8>(), 0..60), nearly_good()],
            is_open: bool,
        ) {
            let host_loopback = if is_open { HostLoopback::Open } else { HostLoopback::Closed };
            if super::of(&frame, host_loopback) == Way::Outside && frame[12..14] == [8, 0] {
                let destination = frame[30];
                prop_assert!(frame.len() >= 34 && frame[14] >> 4 == 4);
                prop_assert!(destination != 0 && destination != 127 && destination < 224);
                prop_assert_eq!(&frame[26..30], &[10, 0, 2, 2]);
                match frame[30..34] {
                    [10, 0, 2, 3] => {
                        let segment = &frame[14 + usize::from(frame[14] & 15) * 4..];
                        prop_assert!(matches!(frame[23], 6 | 17) && segment[2..4] == [0, 53]);
                        prop_assert!(matches!(frame[20..22], [0 | 0x40 | 0x80 | 0xc0, 0]));
                    }
                    [10, 0, 2, last] => prop_assert!(is_open && last == 4),
                    _ => {}
                }
            }
        }
    }
}
