//! Rules for networks and the interfaces that connect to them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::cause::{Causes, Path};
use super::{not_too_many, ports, text};
use crate::types::VirtualMachineInstanceSpec;
use crate::types::{DhcpOptions, Interface, Network};

/// Models of network cards.
const MODELS: [&str; 7] = ["e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "virtio"];

/// Options of DHCP that are the site's own.
const PRIVATE_OPTIONS: std::ops::RangeInclusive<i32> = 224..=254;

/// A spec's networks and interfaces, and where they stand.
struct Networking<'a> {
    networks: &'a [Network],
    interfaces: &'a [Interface],
    spec: &'a Path,
    networks_field: Path,
    interfaces_field: Path,
}

impl<'a> Networking<'a> {
    fn network_of(&self, interface: &Interface) -> Option<&'a Network> {
        self.networks.iter().find(|network| network.name == interface.name)
    }

    /// Each interface with its field.
    fn each(&self) -> impl Iterator<Item = (&'a Interface, Path)> {
        self.interfaces
            .iter()
            .enumerate()
            .map(|(index, interface)| (interface, self.interfaces_field.index(index)))
    }
}

pub(super) fn check(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let networking = Networking {
        networks: &spec.networks,
        interfaces: &spec.domain.devices.interfaces,
        spec: path,
        networks_field: path.child("networks"),
        interfaces_field: path.child("domain.devices.interfaces"),
    };
    not_too_many(&spec.networks, &networking.networks_field, causes);
    not_too_many(&spec.domain.devices.interfaces, &networking.interfaces_field, causes);
    one_default_network(&networking, causes);
    network_types(&networking, causes);
    states(&networking, causes);
    bindings(&networking, causes);
    pairs(&networking, causes);
    for (interface, field) in networking.each() {
        name_and_model(interface, &field, causes);
        addresses(interface, &field, causes);
        if networking.network_of(interface).is_some_and(|network| network.pod.is_some()) {
            ports::check(&interface.ports, &field.child("ports"), causes);
        }
        if let Some(options) = &interface.dhcp_options {
            dhcp(options, &field.child("dhcpOptions"), causes);
        }
    }
    discontinued(&networking, causes);
}

fn is_multus_default(network: &Network) -> bool {
    network.multus.as_ref().is_some_and(|multus| multus.default == Some(true))
}

fn one_default_network(networking: &Networking<'_>, causes: &mut Causes) {
    let pods = networking.networks.iter().filter(|network| network.pod.is_some()).count();
    let defaults = networking.networks.iter().filter(|network| is_multus_default(network)).count();
    if pods > 1 {
        let field = networking.spec.child("interfaces");
        causes.duplicate(&field, format!("more than one interface is connected to a pod network in {field}"));
    }
    if defaults > 1 {
        causes.invalid(&networking.networks_field, "Multus CNI should only have one default network");
    }
    if pods > 0 && defaults > 0 {
        let message = "Pod network cannot be defined when Multus default network is defined";
        causes.invalid(&networking.networks_field, message);
    }
}

fn network_types(networking: &Networking<'_>, causes: &mut Causes) {
    for (index, network) in networking.networks.iter().enumerate() {
        let field = networking.networks_field.index(index);
        let types = [network.pod.is_some(), network.multus.is_some(), network.resource_claim.is_some()];
        match types.into_iter().filter(|set| *set).count() {
            0 => causes.required(&field, "should have a network type"),
            1 => {}
            _ => causes.required(&field, "should have only one network type"),
        }
        if network.multus.as_ref().is_some_and(|multus| multus.network_name.is_empty()) {
            causes.required(&field, "CNI delegating plugin must have a networkName");
        }
    }
}

fn states(networking: &Networking<'_>, causes: &mut Causes) {
    for (interface, field) in networking.each() {
        let (name, state, field) = (&interface.name, text(&interface.state), field.child("state"));
        if !matches!(state, "" | "up" | "down" | "absent") {
            causes.invalid(&field, format!("logical {name} interface state value is unsupported: {state}"));
        }
        if state != "absent" {
            continue;
        }
        if interface.bridge.is_none() {
            let message =
                format!("\"{name}\" interface's state \"absent\" is supported only for bridge binding");
            causes.invalid(&field, message);
        }
        let is_default = |network: &Network| network.pod.is_some() || is_multus_default(network);
        if networking.network_of(interface).is_some_and(is_default) {
            let message =
                format!("\"{name}\" interface's state \"{state}\" is not supported on default networks");
            causes.invalid(&field, message);
        }
    }
}

fn bindings(networking: &Networking<'_>, causes: &mut Causes) {
    for (interface, field) in networking.each() {
        let bindings = [
            interface.bridge.is_some(),
            interface.masquerade.is_some(),
            interface.sriov.is_some(),
            interface.passt_binding.is_some(),
            interface.binding.is_some(),
            interface.slirp.is_some(),
            interface.macvtap.is_some(),
            interface.passt.is_some(),
        ];
        if bindings.into_iter().filter(|set| *set).count() != 1 {
            let name = &interface.name;
            let message =
                format!("logical {name} interface must have exactly one binding method or binding plugin");
            causes.invalid(&field, message);
        }
        let network = networking.network_of(interface);
        if interface.masquerade.is_some() && network.is_some_and(|network| network.pod.is_none()) {
            causes.invalid(&field.child("name"), "Masquerade interface only implemented with pod network");
        }
    }
}

/// Every network has one interface of its name, and every interface one network.
fn pairs(networking: &Networking<'_>, causes: &mut Causes) {
    let names = |index: usize| networking.networks_field.index(index).child("name");
    let mut seen = BTreeSet::new();
    for (index, network) in networking.networks.iter().enumerate() {
        if !seen.insert(&network.name) {
            let name = &network.name;
            let message =
                format!("Network with name \"{name}\" already exists, every network must have a unique name");
            causes.duplicate(&names(index), message);
        }
    }
    for (index, network) in networking.networks.iter().enumerate() {
        if !networking.interfaces.iter().any(|interface| interface.name == network.name) {
            let field = names(index);
            causes.required(&field, format!("{field} '{}' not found.", network.name));
        }
    }
    let mut seen = BTreeSet::new();
    for (interface, field) in networking.each() {
        if !seen.insert(&interface.name) {
            causes.duplicate(
                &field.child("name"),
                "Only one interface can be connected to one specific network",
            );
        }
    }
    for (interface, field) in networking.each() {
        if networking.network_of(interface).is_none() {
            let field = field.child("name");
            causes.invalid(&field, format!("{field} '{}' not found.", interface.name));
        }
    }
}

fn name_and_model(interface: &Interface, field: &Path, causes: &mut Causes) {
    let name_field = field.child("name");
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if interface.name.is_empty() || !interface.name.chars().all(allowed) {
        let message = "Network interface name can only contain alphabetical characters, numbers, dashes (-) or \
                       underscores (_)";
        causes.invalid(&name_field, message);
    }
    let model = text(&interface.model);
    if !model.is_empty() && !MODELS.contains(&model) {
        let message = format!("interface {name_field} uses model {model} that is not supported.");
        causes.not_supported(&field.child("model"), message);
    }
}

fn addresses(interface: &Interface, field: &Path, causes: &mut Causes) {
    let name = field.child("name");
    let mac = text(&interface.mac_address);
    if !mac.is_empty() {
        let field = field.child("macAddress");
        match mac_bytes(mac) {
            None => causes.invalid(&field, format!("interface {name} has malformed MAC address ({mac}).")),
            Some(bytes) if bytes.len() > 6 => {
                causes.invalid(&field, format!("interface {name} has too long MAC address ({mac})."));
            }
            Some(bytes) if bytes == [2, 0, 0, 0, 0, 0] => {
                let message =
                    "The requested MAC address is reserved for the in-pod bridge. Please choose another one.";
                causes.invalid(&field, message);
            }
            Some(_) => {}
        }
    }
    let pci = text(&interface.pci_address);
    if !pci.is_empty() && !is_pci_address(pci) {
        let message = format!("interface {name} has malformed PCI address ({pci}).");
        causes.invalid(&field.child("pciAddress"), message);
    }
}

/// The bytes of a hardware address of 6, 8 or 20 bytes, in one of the forms that Go's `net.ParseMAC` reads: pairs of
/// hexadecimal digits between `:` or `-`, or groups of four between `.`.
fn mac_bytes(text: &str) -> Option<Vec<u8>> {
    let separator = text.chars().find(|letter| matches!(letter, ':' | '-' | '.'))?;
    let digits = if separator == '.' { 4 } else { 2 };
    let mut bytes = Vec::new();
    for group in text.split(separator) {
        if group.len() != digits || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for at in (0..digits).step_by(2) {
            bytes.push(u8::from_str_radix(&group[at..at + 2], 16).ok()?);
        }
    }
    matches!(bytes.len(), 6 | 8 | 20).then_some(bytes)
}

/// `0000:00:00.0`: domain, bus, slot in hexadecimal, function from 0 to 7.
fn is_pci_address(text: &str) -> bool {
    let Some((rest, function)) = text.split_once('.') else {
        return false;
    };
    let is_hex =
        |part: &str, digits| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = rest.split(':').collect();
    let [domain, bus, slot] = parts[..] else {
        return false;
    };
    is_hex(domain, 4) && is_hex(bus, 2) && is_hex(slot, 2) && matches!(function.as_bytes(), [b'0'..=b'7'])
}

fn dhcp(options: &DhcpOptions, field: &Path, causes: &mut Causes) {
    let private = field.child("privateOptions");
    let mut seen = BTreeSet::new();
    if options.private_options.iter().any(|option| !PRIVATE_OPTIONS.contains(&option.option)) {
        let message = "provided DHCPPrivateOptions are out of range, must be in range 224 to 254";
        causes.invalid(&private, message);
    }
    if !options.private_options.iter().all(|option| seen.insert(option.option)) {
        causes.invalid(&private, "Found Duplicates: you have provided duplicate DHCPPrivateOptions");
    }
    for (index, server) in options.ntp_servers.iter().enumerate() {
        if !is_ipv4(server) {
            let field = field.child("ntpServers").index(index);
            causes.invalid(&field, "NTP servers must be a list of valid IPv4 addresses.");
        }
    }
}

/// Whether the text is an IPv4 address, written as such or as an IPv6 address that stands for one.
fn is_ipv4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
        || matches!(text.parse(), Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some())
}

/// Bindings that KubeVirt no longer has; it says so when an object is created.
fn discontinued(networking: &Networking<'_>, causes: &mut Causes) {
    for (interface, field) in networking.each() {
        let old = [
            ("Slirp interface support", interface.slirp.is_some()),
            ("Passt network binding", interface.passt.is_some()),
            ("Macvtap network binding", interface.macvtap.is_some()),
        ];
        for (name, _) in old.into_iter().filter(|(_, set)| *set) {
            causes.invalid(&field.child("name"), format!("{name} has been discontinued since v1.3"));
        }
    }
}
