//! What an instance says of its network. Pure.

use std::ops::RangeInclusive;

use manifest::keys;
use manifest::types::{Interface, Port, PortRange, VirtualMachineInstance};
use vmm::{CardModel, NetworkCard};

/// The network of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name of the interface in the manifest.
    pub interface: String,
    /// The guest's end.
    pub card: NetworkCard,
    /// What DHCP calls the guest.
    pub host_name: String,
    /// What of the guest can be reached.
    pub ports: Ports,
    /// Whether the guest reaches the host's loopback.
    pub host_loopback: HostLoopback,
}

/// Whether a guest reaches services on the host's loopback, the API server's among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostLoopback {
    /// It does not.
    Closed,
    /// It does, at an address of its own.
    Open,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Ports of a guest that can be reached: all when none is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports(pub(super) Vec<(Protocol, RangeInclusive<u16>)>);

impl Ports {
    /// Whether this one can be.
    pub fn allow(&self, protocol: Protocol, port: u16) -> bool {
        self.0.is_empty() || self.0.iter().any(|(of, ports)| *of == protocol && ports.contains(&port))
    }

    /// Those that are listed, each once, the lowest first.
    pub fn listed(&self, protocol: Protocol) -> impl Iterator<Item = u16> {
        let last = if self.0.is_empty() { 0 } else { u16::MAX };
        (1..=last).filter(move |port| self.allow(protocol, *port))
    }
}

/// The network of `instance`: that of the interface on the Pod's own network, `None` without one.
///
/// Takes a manifest that [`manifest::bootable`] has nothing against; what that refuses is not looked at.
pub fn network(instance: &VirtualMachineInstance) -> Option<Network> {
    let spec = &instance.spec;
    let pod_network = spec.networks.iter().find(|network| network.pod.is_some())?;
    let mut interfaces = spec.domain.devices.interfaces.iter();
    let interface = interfaces.find(|interface| interface.name == pod_network.name)?;
    let metadata = &instance.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let annotations = metadata.annotations.as_ref();
    let host_loopback = annotations.and_then(|all| all.get(keys::HOST_LOOPBACK)).map(String::as_str);
    Some(Network {
        interface: interface.name.clone(),
        card: NetworkCard { model: model(interface), mac: mac(interface, instance) },
        host_name: spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(name).to_owned(),
        ports: ports(&interface.ports, &interface.port_ranges),
        host_loopback: match host_loopback {
            Some("true") => HostLoopback::Open,
            _ => HostLoopback::Closed,
        },
    })
}

fn model(interface: &Interface) -> CardModel {
    match interface.model.as_deref() {
        Some("e1000") => CardModel::E1000,
        Some("e1000e") => CardModel::E1000e,
        Some("igb") => CardModel::Igb,
        Some("ne2k_pci") => CardModel::Ne2kPci,
        Some("pcnet") => CardModel::Pcnet,
        Some("rtl8139") => CardModel::Rtl8139,
        _ => CardModel::Virtio,
    }
}

/// The address in the manifest, else one that is the same for the same instance: locally administered (IEEE 802, 8.2.2),
/// then the beginning of a checksum of its UID, or of its name where it has none.
fn mac(interface: &Interface, instance: &VirtualMachineInstance) -> [u8; 6] {
    if let Some(mac) = interface.mac_address.as_deref().and_then(read_mac) {
        return mac;
    }
    let metadata = &instance.metadata;
    let [uid, namespace, name] =
        [&metadata.uid, &metadata.namespace, &metadata.name].map(|text| text.as_deref().unwrap_or_default());
    let whole = if uid.is_empty() { format!("{namespace}.{name}") } else { uid.to_owned() };
    let [first, second, third, fourth, fifth, ..] = crate::machine_dir::fnv1a(&whole).to_be_bytes();
    [0x02, first, second, third, fourth, fifth]
}

fn read_mac(text: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> =
        text.split([':', '-']).map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets?.try_into().ok()
}

fn ports(ports: &[Port], ranges: &[PortRange]) -> Ports {
    let protocol = |text: Option<&str>| match text {
        Some("UDP") => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    let single = ports.iter().map(|port| (protocol(port.protocol.as_deref()), port.port, port.port));
    let ranges = ranges.iter().map(|range| (protocol(Some(&range.protocol)), range.start, range.end));
    let number = |port: i32| u16::try_from(port).ok();
    let listed = single.chain(ranges);
    Ports(listed.filter_map(|(of, first, last)| Some((of, number(first)?..=number(last)?))).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn instance(interface: Value) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "9d1c8a4e-0000-4000-8000-000000000000"},
            "spec": {
                "domain": {"devices": {"interfaces": [interface]}},
                "networks": [{"name": "default", "pod": {}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_default_interface_is_a_virtio_card_with_every_port() {
        let bridged = instance(json!({"name": "default", "bridge": {}}));
        let found = network(&bridged).unwrap();
        assert_eq!((found.interface.as_str(), found.host_name.as_str()), ("default", "web"));
        assert_eq!((found.card.model, found.card.mac[0]), (CardModel::Virtio, 2));
        assert_eq!(found.host_loopback, HostLoopback::Closed);
        for port in [1, 22, 65535] {
            assert!(found.ports.allow(Protocol::Tcp, port) && found.ports.allow(Protocol::Udp, port));
        }
        assert_eq!(network(&instance(json!({"name": "default", "masquerade": {}}))), Some(found));
    }

    #[test]
    fn no_interface_on_the_pods_network_is_no_network() {
        let mut lonely = instance(json!({"name": "default", "bridge": {}}));
        lonely.spec.networks.clear();
        assert_eq!(network(&lonely), None);
        assert_eq!(network(&instance(json!({"name": "other", "bridge": {}}))), None);
    }

    #[test]
    fn the_hardware_address_is_the_written_one_or_the_instances_own() {
        let of = |instance: &VirtualMachineInstance| network(instance).unwrap().card.mac;
        for text in ["de:ad:00:00:be:af", "DE-AD-00-00-BE-AF"] {
            let written = instance(json!({"name": "default", "bridge": {}, "macAddress": text}));
            assert_eq!(of(&written), [0xde, 0xad, 0, 0, 0xbe, 0xaf]);
        }
        let mut own = instance(json!({"name": "default", "bridge": {}}));
        let first = of(&own);
        assert_eq!(of(&own), first, "it stays");
        own.metadata.uid = Some("another".to_owned());
        let second = of(&own);
        own.metadata.uid = None;
        let third = of(&own);
        own.metadata.name = Some("other".to_owned());
        let all = [first, second, third, of(&own)];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:x?}");
    }

    #[test]
    fn ports_that_are_listed_are_the_only_ones() {
        let listed = network(&instance(json!({
            "name": "default", "masquerade": {},
            "ports": [{"port": 22}, {"port": 53, "protocol": "UDP"}],
            "portRanges": [{"protocol": "TCP", "start": 8000, "end": 8009}],
        })))
        .unwrap()
        .ports;
        for (protocol, port, expected) in [
            (Protocol::Tcp, 22, true),
            (Protocol::Udp, 22, false),
            (Protocol::Tcp, 53, false),
            (Protocol::Udp, 53, true),
            (Protocol::Tcp, 7999, false),
            (Protocol::Tcp, 8000, true),
            (Protocol::Tcp, 8009, true),
            (Protocol::Tcp, 8010, false),
        ] {
            assert_eq!(listed.allow(protocol, port), expected, "{protocol:?} {port}");
        }
    }

    #[test]
    fn the_models_names_and_the_annotation_are_read() {
        let models = ["virtio", "e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139"];
        for model in models {
            let found = network(&instance(json!({"name": "default", "bridge": {}, "model": model}))).unwrap();
            assert_eq!(serde_json::to_value(found.card.model).unwrap(), model);
        }
        let mut open = instance(json!({"name": "default", "bridge": {}}));
        for (value, expected) in
            [("true", HostLoopback::Open), ("", HostLoopback::Closed), ("yes", HostLoopback::Closed)]
        {
            open.metadata.annotations = Some([(keys::HOST_LOOPBACK.to_owned(), value.to_owned())].into());
            open.spec.hostname = Some("named".to_owned());
            let found = network(&open).unwrap();
            assert_eq!((found.host_loopback, found.host_name.as_str()), (expected, "named"), "{value}");
        }
    }
}
