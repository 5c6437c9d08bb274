//! The guest's lease: DHCP (RFC 2131) of a network that has one client.

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Address};

use super::{GATEWAY, GUEST, PREFIX_LENGTH};

/// How long a lease is good, in seconds: a day. It is always given again.
const LEASE_SECONDS: u32 = 86_400;

/// Option 12, the client's host name (RFC 2132, 3.14).
const HOST_NAME: u8 = 12;

/// Option 26, the interface's MTU (RFC 2132, 5.1).
const INTERFACE_MTU: u8 = 26;

/// What the guest is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Hardware address of the guest's card; nobody else is answered.
    pub mac: [u8; 6],
    /// Its host name, 255 bytes at most; none when empty.
    pub host_name: String,
    /// Longest IP packet, in bytes.
    pub mtu: u16,
    /// Where to ask for names; none where nothing outside can be reached.
    pub name_server: Option<Ipv4Address>,
}

/// Whether an answer of [`answer`] gives the guest its address for good.
pub fn is_lease(answer: &[u8]) -> bool {
    // What cannot be read is no answer of ours.
    let packet = DhcpPacket::new_checked(answer).ok();
    let told = packet.as_ref().and_then(|packet| DhcpRepr::parse(packet).ok());
    told.is_some_and(|told| told.message_type == DhcpMessageType::Ack && told.your_ip == GUEST)
}

/// The answer to a message from a client; `None` for what needs none.
pub fn answer(message: &[u8], lease: &Lease) -> Option<Vec<u8>> {
    // What cannot be read asks for nothing.
    let packet = DhcpPacket::new_checked(message).ok()?;
    let asked = DhcpRepr::parse(&packet).ok()?;
    if asked.client_hardware_address != EthernetAddress(lease.mac) {
        return None;
    }
    let is_ours = asked.server_identifier.is_none_or(|server| server == GATEWAY);
    let wanted = asked.requested_ip.or_else(|| Some(asked.client_ip).filter(|ip| !ip.is_unspecified()));
    let message_type = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if !is_ours => return None,
        DhcpMessageType::Request if wanted == Some(GUEST) => DhcpMessageType::Ack,
        DhcpMessageType::Request => DhcpMessageType::Nak,
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return None,
    };
    let mtu = lease.mtu.to_be_bytes();
    let name = DhcpOption { kind: HOST_NAME, data: lease.host_name.as_bytes() };
    let options = [DhcpOption { kind: INTERFACE_MTU, data: &mtu }, name];
    let options = if lease.host_name.is_empty() { &options[..1] } else { &options[..] };
    let is_refusal = message_type == DhcpMessageType::Nak;
    // Who only informs itself has an address already (RFC 2131, 4.3.5).
    let gives_address = !is_refusal && asked.message_type != DhcpMessageType::Inform;
    let mask = u32::MAX << (32 - u32::from(PREFIX_LENGTH));
    let reply = DhcpRepr {
        message_type,
        transaction_id: asked.transaction_id,
        secs: 0,
        client_hardware_address: asked.client_hardware_address,
        client_ip: if is_refusal { Ipv4Address::UNSPECIFIED } else { asked.client_ip },
        your_ip: if gives_address { GUEST } else { Ipv4Address::UNSPECIFIED },
        server_ip: Ipv4Address::UNSPECIFIED,
        router: (!is_refusal).then_some(GATEWAY),
        subnet_mask: (!is_refusal).then(|| Ipv4Address::from(mask)),
        relay_agent_ip: asked.relay_agent_ip,
        broadcast: asked.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY),
        parameter_request_list: None,
        dns_servers: lease.name_server.filter(|_| !is_refusal).map(|server| [server].into_iter().collect()),
        max_size: None,
        lease_duration: gives_address.then_some(LEASE_SECONDS),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if is_refusal { &[] } else { options },
    };
    let mut message = vec![0; reply.buffer_len()];
    // It fails for want of room only, and has just what it needs.
    reply.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).ok()?;
    Some(message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn lease() -> Lease {
        Lease {
            mac: MAC,
            host_name: "web".to_owned(),
            mtu: 1500,
            name_server: Some(Ipv4Address::new(10, 0, 2, 3)),
        }
    }

    fn request(message_type: DhcpMessageType) -> DhcpRepr<'static> {
        DhcpRepr {
            message_type,
            transaction_id: 7,
            secs: 1,
            client_hardware_address: EthernetAddress(MAC),
            client_ip: Ipv4Address::UNSPECIFIED,
            your_ip: Ipv4Address::UNSPECIFIED,
            server_ip: Ipv4Address::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: true,
            requested_ip: None,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        }
    }

    fn bytes(repr: &DhcpRepr<'_>) -> Vec<u8> {
        let mut message = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).unwrap();
        message
    }

    /// The kind of the answer and the address in it.
    fn told(repr: &DhcpRepr<'_>) -> Option<(DhcpMessageType, Ipv4Address)> {
        let answer = answer(&bytes(repr), &lease())?;
        let is_lease = is_lease(&answer);
        let packet = DhcpPacket::new_checked(answer.as_slice()).unwrap();
        let answer = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((answer.transaction_id, answer.server_identifier), (7, Some(GATEWAY)));
        assert_eq!(is_lease, (answer.message_type, answer.your_ip) == (DhcpMessageType::Ack, GUEST));
        Some((answer.message_type, answer.your_ip))
    }

    #[test]
    fn the_guest_gets_its_address_and_what_belongs_to_it() {
        let answer = answer(&bytes(&request(DhcpMessageType::Discover)), &lease()).unwrap();
        let packet = DhcpPacket::new_checked(answer.as_slice()).unwrap();
        let offer = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(offer.message_type, DhcpMessageType::Offer);
        assert_eq!((offer.your_ip, offer.router), (GUEST, Some(GATEWAY)));
        assert_eq!(offer.subnet_mask, Some(Ipv4Address::new(255, 255, 255, 0)));
        assert_eq!(offer.lease_duration, Some(86_400));
        assert_eq!(offer.dns_servers.unwrap().as_slice(), [Ipv4Address::new(10, 0, 2, 3)]);
        let option = |kind: u8| {
            let found = packet.options().find(|option| option.kind == kind);
            found.map(|option| option.data.to_vec())
        };
        assert_eq!(option(HOST_NAME), Some(b"web".to_vec()));
        assert_eq!(option(INTERFACE_MTU), Some(1500u16.to_be_bytes().to_vec()));
    }

    #[test]
    fn each_message_has_its_answer() {
        use DhcpMessageType as Type;
        let none = Ipv4Address::UNSPECIFIED;
        let wants = |ip| DhcpRepr { requested_ip: Some(ip), ..request(Type::Request) };
        let other = Ipv4Address::new(10, 0, 2, 77);
        let has = |message_type, ip| DhcpRepr { client_ip: ip, ..request(message_type) };
        let from = |server| DhcpRepr { server_identifier: Some(server), ..wants(GUEST) };
        assert_eq!(told(&wants(GUEST)), Some((Type::Ack, GUEST)));
        assert_eq!(told(&has(Type::Request, GUEST)), Some((Type::Ack, GUEST)), "a renewal");
        assert_eq!(told(&wants(other)), Some((Type::Nak, none)));
        assert_eq!(told(&request(Type::Request)), Some((Type::Nak, none)));
        assert_eq!(told(&from(GATEWAY)), Some((Type::Ack, GUEST)));
        assert_eq!(told(&from(other)), None, "another server was chosen");
        assert_eq!(told(&has(Type::Inform, GUEST)), Some((Type::Ack, none)));
        for silent in [Type::Decline, Type::Release, Type::Offer, Type::Ack, Type::Unknown(99)] {
            assert_eq!(told(&request(silent)), None, "{silent:?}");
        }
        let stranger =
            DhcpRepr { client_hardware_address: EthernetAddress([2; 6]), ..request(Type::Discover) };
        assert_eq!(told(&stranger), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_no_fault(mut message in prop::collection::vec(any::<u8>(), 0..600), real in any::<bool>()) {
            if real {
                let head = bytes(&request(DhcpMessageType::Discover));
                let length = head.len().min(message.len()).min(240);
                message[..length].copy_from_slice(&head[..length]);
            }
            answer(&message, &lease());
        }
    }
}
