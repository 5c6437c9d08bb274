//! Rules 66 to 84, of networks and interfaces.

use manifest::validate::CauseKind::{Duplicate, Invalid, NotSupported, Required};
use serde_json::{Value, json};

use crate::harness::{Expected, assert_faults, assert_valid};

/// A change of the only interface.
fn interface(changes: Value) -> Value {
    let changes = changes.as_object().unwrap();
    let path = |key: &String| format!("domain.devices.interfaces[0].{key}");
    Value::Object(changes.iter().map(|(key, value)| (path(key), value.clone())).collect())
}

/// A second network of this type, with a bridged interface.
fn second(kind: Value) -> Value {
    let mut network = json!({"name": "second"});
    network.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
    json!({
        "networks[1]": network,
        "domain.devices.interfaces[1]": {"name": "second", "bridge": {}},
    })
}

#[test]
fn networks_and_interfaces_go_in_pairs() {
    assert_valid(json!({"networks": null, "domain.devices.interfaces": null}));
    assert_faults(
        json!({"networks[1]": {"name": "alone", "multus": {"networkName": "n"}}}),
        &[(Required, "%P.networks[1].name", "%P.networks[1].name 'alone' not found.")],
    );
    assert_faults(
        json!({"domain.devices.interfaces[1]": {"name": "alone", "bridge": {}}}),
        &[(Invalid, "%D.devices.interfaces[1].name", "%D.devices.interfaces[1].name 'alone' not found.")],
    );
    assert_faults(
        json!({"networks[1]": {"name": "default", "multus": {"networkName": "n"}}}),
        &[(
            Duplicate,
            "%P.networks[1].name",
            "Network with name \"default\" already exists, every network must have a unique name",
        )],
    );
    assert_faults(
        json!({"domain.devices.interfaces[1]": {"name": "default", "bridge": {}}}),
        &[(
            Duplicate,
            "%D.devices.interfaces[1].name",
            "Only one interface can be connected to one specific network",
        )],
    );
}

#[test]
fn network_types() {
    assert_valid(second(json!({"multus": {"networkName": "n"}})));
    assert_valid(second(json!({"resourceClaim": {"claimName": "c"}})));
    assert_faults(second(json!({})), &[(Required, "%P.networks[1]", "should have a network type")]);
    assert_faults(
        second(json!({"multus": {"networkName": "n"}, "resourceClaim": {}})),
        &[(Required, "%P.networks[1]", "should have only one network type")],
    );
    assert_faults(
        second(json!({"multus": {"networkName": ""}})),
        &[(Required, "%P.networks[1]", "CNI delegating plugin must have a networkName")],
    );
    assert_faults(
        second(json!({"pod": {}})),
        &[(
            Duplicate,
            "%P.interfaces",
            "more than one interface is connected to a pod network in %P.interfaces",
        )],
    );
    assert_faults(
        second(json!({"multus": {"networkName": "n", "default": true}})),
        &[(Invalid, "%P.networks", "Pod network cannot be defined when Multus default network is defined")],
    );
    let mut two_defaults = second(json!({"multus": {"networkName": "n", "default": true}}));
    two_defaults["networks[0]"] = json!({"name": "default", "multus": {"networkName": "m", "default": true}});
    two_defaults["domain.devices.interfaces[0]"] = json!({"name": "default", "bridge": {}});
    assert_faults(
        two_defaults,
        &[(Invalid, "%P.networks", "Multus CNI should only have one default network")],
    );
}

#[test]
fn bindings() {
    let one_binding = (
        Invalid,
        "%D.devices.interfaces[0]",
        "logical default interface must have exactly one binding method or binding plugin",
    );
    for binding in ["bridge", "masquerade", "sriov", "passtBinding"] {
        assert_valid(interface(json!({"masquerade": null, binding: {}})));
    }
    assert_valid(interface(json!({"masquerade": null, "binding": {"name": "plugin"}})));
    assert_faults(interface(json!({"masquerade": null})), &[one_binding]);
    assert_faults(interface(json!({"bridge": {}})), &[one_binding]);
    for (binding, message) in [
        ("slirp", "Slirp interface support has been discontinued since v1.3"),
        ("passt", "Passt network binding has been discontinued since v1.3"),
        ("macvtap", "Macvtap network binding has been discontinued since v1.3"),
    ] {
        assert_faults(
            interface(json!({"masquerade": null, binding: {}})),
            &[(Invalid, "%D.devices.interfaces[0].name", message)],
        );
    }
    assert_faults(
        json!({"networks[0]": {"name": "default", "multus": {"networkName": "n"}}}),
        &[(
            Invalid,
            "%D.devices.interfaces[0].name",
            "Masquerade interface only implemented with pod network",
        )],
    );
}

#[test]
fn names_and_models() {
    let renamed = |name: &str| json!({"networks[0].name": name, "domain.devices.interfaces[0].name": name});
    assert_valid(renamed("Net_1-a"));
    for bad in ["a.b", "a b", "é", ""] {
        assert_faults(
            renamed(bad),
            &[(
                Invalid,
                "%D.devices.interfaces[0].name",
                "Network interface name can only contain alphabetical characters, numbers, dashes (-) or \
                 underscores (_)",
            )],
        );
    }
    for model in ["e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "virtio"] {
        assert_valid(interface(json!({"model": model})));
    }
    assert_faults(
        interface(json!({"model": "vmxnet3"})),
        &[(
            NotSupported,
            "%D.devices.interfaces[0].model",
            "interface %D.devices.interfaces[0].name uses model vmxnet3 that is not supported.",
        )],
    );
}

#[test]
fn addresses() {
    for good in ["de:ad:00:00:be:af", "DE-AD-00-00-BE-AF", "dead.0000.beaf", "02:00:00:00:00:01"] {
        assert_valid(interface(json!({"macAddress": good})));
    }
    let mac = "%D.devices.interfaces[0].macAddress";
    for bad in
        ["de:ad:00:00:be", "de:ad:00:00:be:ag", "deadbeef0000", "de:ad:00-00:be:af", "d:e:a:d:0:0", ":"]
    {
        let message = format!("interface %D.devices.interfaces[0].name has malformed MAC address ({bad}).");
        assert_faults(interface(json!({"macAddress": bad})), &[(Invalid, mac, &message)]);
    }
    assert_faults(
        interface(json!({"macAddress": "de:ad:00:00:be:af:be:af"})),
        &[(
            Invalid,
            mac,
            "interface %D.devices.interfaces[0].name has too long MAC address (de:ad:00:00:be:af:be:af).",
        )],
    );
    assert_faults(
        interface(json!({"macAddress": "02-00-00-00-00-00"})),
        &[(
            Invalid,
            mac,
            "The requested MAC address is reserved for the in-pod bridge. Please choose another one.",
        )],
    );
    assert_valid(interface(json!({"pciAddress": "0000:8f:1A.7"})));
    for bad in ["0000:00:00.8", "000:00:00.0", "0000:00:00", "0000:00.0", "0000:0g:00.0", "0000:00:00.00"] {
        let message = format!("interface %D.devices.interfaces[0].name has malformed PCI address ({bad}).");
        assert_faults(
            interface(json!({"pciAddress": bad})),
            &[(Invalid, "%D.devices.interfaces[0].pciAddress", &message)],
        );
    }
}

#[test]
fn ports() {
    assert_valid(interface(json!({"ports": [
        {"port": 1, "name": "a", "protocol": "TCP"},
        {"port": 65535, "name": "a-1-b-2-c-3-d-4", "protocol": "UDP"},
        {"port": 80},
    ]})));
    let port = |port: Value| interface(json!({"ports": [port]}));
    let field = "%D.devices.interfaces[0].ports[0]";
    assert_faults(port(json!({"port": 0})), &[(Required, field, "Port field is mandatory.")]);
    for bad in [-1, 65536] {
        assert_faults(
            port(json!({"port": bad})),
            &[(Invalid, field, "Port field must be in range 0 < x < 65536.")],
        );
    }
    assert_faults(
        port(json!({"port": 1, "protocol": "SCTP"})),
        &[(
            Invalid,
            "%D.devices.interfaces[0].ports[0].protocol",
            "Unknown protocol, only TCP or UDP allowed",
        )],
    );
    for bad in ["Http", "a--b", "-a", "a-", "123", "a234567890123456", "a_b"] {
        let message = format!("Invalid name of the port: {bad}");
        assert_faults(
            port(json!({"port": 1, "name": bad})),
            &[(Invalid, "%D.devices.interfaces[0].ports[0].name", &message)],
        );
    }
    assert_faults(
        interface(json!({"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]})),
        &[(Duplicate, "%D.devices.interfaces[0].ports[1].name", "Duplicate name of the port: a")],
    );
    // Only ports on the pod network are looked at.
    let mut elsewhere = second(json!({"multus": {"networkName": "n"}}));
    elsewhere["domain.devices.interfaces[1]"]["ports"] = json!([{"port": 0}]);
    assert_valid(elsewhere);
}

#[test]
fn dhcp() {
    let options = |numbers: &[i32]| {
        let options: Vec<Value> =
            numbers.iter().map(|number| json!({"option": number, "value": "v"})).collect();
        interface(json!({"dhcpOptions.privateOptions": options}))
    };
    let field = "%D.devices.interfaces[0].dhcpOptions.privateOptions";
    let range = (Invalid, field, "provided DHCPPrivateOptions are out of range, must be in range 224 to 254");
    assert_valid(options(&[224, 254]));
    assert_faults(options(&[223]), &[range]);
    assert_faults(options(&[255, 1]), &[range]);
    assert_faults(
        options(&[240, 240]),
        &[(Invalid, field, "Found Duplicates: you have provided duplicate DHCPPrivateOptions")],
    );
    let servers = |servers: Value| interface(json!({ "dhcpOptions.ntpServers": servers }));
    assert_valid(servers(json!(["192.0.2.1", "::ffff:192.0.2.2"])));
    assert_faults(
        servers(json!(["192.0.2.1", "pool.example", "2001:db8::1"])),
        &[1, 2].map(|index| {
            let field: &'static str = [
                "%D.devices.interfaces[0].dhcpOptions.ntpServers[1]",
                "%D.devices.interfaces[0].dhcpOptions.ntpServers[2]",
            ][index - 1];
            (Invalid, field, "NTP servers must be a list of valid IPv4 addresses.")
        }),
    );
}

#[test]
fn states() {
    let field = "%D.devices.interfaces[0].state";
    assert_valid(interface(json!({"state": "up"})));
    assert_valid(interface(json!({"state": "down"})));
    assert_faults(
        interface(json!({"state": "asleep"})),
        &[(Invalid, field, "logical default interface state value is unsupported: asleep")],
    );
    let absent: [Expected<'_>; 2] = [
        (Invalid, field, "\"default\" interface's state \"absent\" is supported only for bridge binding"),
        (Invalid, field, "\"default\" interface's state \"absent\" is not supported on default networks"),
    ];
    assert_faults(interface(json!({"state": "absent"})), &absent);
    assert_faults(interface(json!({"state": "absent", "masquerade": null, "bridge": {}})), &absent[1..]);
    let mut second = second(json!({"multus": {"networkName": "n"}}));
    second["domain.devices.interfaces[1]"]["state"] = json!("absent");
    assert_valid(second);
}
