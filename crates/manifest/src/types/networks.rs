//! Networks and the interfaces that connect to them.

use crate::schema::{Empty, object};

object! {
    /// A network, of exactly one type; the interface of the same name connects to it.
    pub struct Network {
        /// Name of the network and of its interface.
        required name ("name"): String,
        /// The pod's own network.
        optional pod ("pod"): Option<PodNetwork>,
        /// A network attachment definition.
        optional multus ("multus"): Option<MultusNetwork>,
        /// A device handed out by a resource claim.
        optional resource_claim ("resourceClaim"): Option<ClaimRequest>,
    }
}

object! {
    /// The pod's own network.
    pub struct PodNetwork {
        /// IPv4 network behind masquerading; `10.0.2.0/24` when unset.
        optional vm_network_cidr ("vmNetworkCIDR"): Option<String>,
        /// IPv6 network behind masquerading; `fd10:0:2::/120` when unset.
        optional vm_ipv6_network_cidr ("vmIPv6NetworkCIDR"): Option<String>,
    }
}

object! {
    /// A network attachment definition.
    pub struct MultusNetwork {
        /// Its name, as `name` or `namespace/name`.
        required network_name ("networkName"): String,
        /// Takes the place of the pod's own network; `false` when unset.
        optional default ("default"): Option<bool>,
    }
}

object! {
    /// A device of a resource claim.
    pub struct ClaimRequest {
        /// Name of the claim in the spec's `resourceClaims`.
        optional claim_name ("claimName"): Option<String>,
        /// The request within that claim.
        optional request_name ("requestName"): Option<String>,
    }
}

object! {
    /// A network interface with exactly one binding.
    pub struct Interface {
        /// Name of the interface and of its network.
        required name ("name"): String,
        /// `virtio` (also when unset), `e1000`, `e1000e`, `igb`, `ne2k_pci`, `pcnet` or `rtl8139`.
        optional model ("model"): Option<String>,
        /// Binding: a bridge to the network.
        optional bridge ("bridge"): Option<Empty>,
        /// Binding: address translation behind the pod's address.
        optional masquerade ("masquerade"): Option<Empty>,
        /// Binding: a passed-through virtual function.
        optional sriov ("sriov"): Option<Empty>,
        /// Binding: passt, in user space.
        optional passt_binding ("passtBinding"): Option<Empty>,
        /// Binding: a plugin registered with the cluster.
        optional binding ("binding"): Option<PluginBinding>,
        /// Binding that no longer exists.
        optional slirp ("slirp"): Option<Empty>,
        /// Binding that no longer exists.
        optional macvtap ("macvtap"): Option<Empty>,
        /// Binding that no longer exists.
        optional passt ("passt"): Option<Empty>,
        /// Ports reachable through masquerading; all when empty.
        optional ports ("ports"): Vec<Port>,
        /// Port ranges reachable through masquerading.
        optional port_ranges ("portRanges"): Vec<PortRange>,
        /// MAC address, `de:ad:00:00:be:af` or with dashes; random but stable when unset.
        optional mac_address ("macAddress"): Option<String>,
        /// Place in the boot order, from 1; shared with the disks.
        optional boot_order ("bootOrder"): Option<u64>,
        /// PCI address on the guest's bus, `0000:00:00.0` form.
        optional pci_address ("pciAddress"): Option<String>,
        /// What DHCP tells the guest beside the address.
        optional dhcp_options ("dhcpOptions"): Option<DhcpOptions>,
        /// Metadata tag shown to the guest.
        optional tag ("tag"): Option<String>,
        /// ACPI index, from which the guest may name the interface.
        optional acpi_index ("acpiIndex"): Option<i32>,
        /// `up` (also when unset), `down` (no link) or `absent` (being removed).
        optional state ("state"): Option<String>,
    }
}

object! {
    /// A binding plugin.
    pub struct PluginBinding {
        /// Name under which the cluster knows it.
        required name ("name"): String,
    }
}

object! {
    /// A port reachable from outside.
    pub struct Port {
        /// Name of the port, unique in the interface.
        optional name ("name"): Option<String>,
        /// `TCP` (also when unset) or `UDP`.
        optional protocol ("protocol"): Option<String>,
        /// Port number, 1 to 65535.
        required port ("port"): i32,
    }
}

object! {
    /// A range of ports reachable from outside, both ends included.
    pub struct PortRange {
        /// `TCP` or `UDP`.
        required protocol ("protocol"): String,
        /// First port.
        required start ("start"): i32,
        /// Last port.
        required end ("end"): i32,
    }
}

object! {
    /// What DHCP tells the guest beside the address.
    pub struct DhcpOptions {
        /// Boot file name, option 67.
        optional boot_file_name ("bootFileName"): Option<String>,
        /// TFTP server name, option 66.
        optional tftp_server_name ("tftpServerName"): Option<String>,
        /// IPv4 addresses of time servers, option 42.
        optional ntp_servers ("ntpServers"): Vec<String>,
        /// Options of the site, 224 to 254.
        optional private_options ("privateOptions"): Vec<DhcpPrivateOption>,
    }
}

object! {
    /// A DHCP option of the site.
    pub struct DhcpPrivateOption {
        /// Number, 224 to 254.
        required option ("option"): i32,
        /// Value as text.
        required value ("value"): String,
    }
}
