//! Rules for the ports of an interface on the pod network.

use std::collections::BTreeSet;

use super::cause::{Causes, Path};
use super::text;
use crate::types::Port;

pub(super) fn check(ports: &[Port], list: &Path, causes: &mut Causes) {
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = list.index(index);
        match port.port {
            0 => causes.required(&field, "Port field is mandatory."),
            1..=65535 => {}
            _ => causes.invalid(&field, "Port field must be in range 0 < x < 65536."),
        }
        if !matches!(text(&port.protocol), "" | "TCP" | "UDP") {
            causes.invalid(&field.child("protocol"), "Unknown protocol, only TCP or UDP allowed");
        }
        let name = text(&port.name);
        if name.is_empty() {
            continue;
        }
        if !names.insert(name) {
            causes.duplicate(&field.child("name"), format!("Duplicate name of the port: {name}"));
        }
        if !is_port_name(name) {
            causes.invalid(&field.child("name"), format!("Invalid name of the port: {name}"));
        }
    }
}

/// A service name of RFC 6335: 1 to 15 of `a-z`, `0-9` and single inner dashes, with at least one letter.
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-')
}
