//! Defaulting and validation of the core group's plain kinds, PriorityClasses, Leases and EndpointSlices, after
//! k8s.io/kubernetes/pkg/apis/*/{v1/defaults.go,validation}.

use std::collections::HashSet;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::field::{child, default, flag, items_mut, list, map, same, text};
use crate::kind::{Admission, Operation};
use crate::metadata::{is_config_map_key, is_dns1035_label, is_dns1123_label, is_dns1123_subdomain};
use crate::object;
use crate::status::{FieldError, FieldErrorType};

/// `MaxSecretSize`: bytes of all values of a Secret or ConfigMap together.
const MOST_DATA_BYTES: usize = 1024 * 1024;
pub(super) const IMMUTABLE: &str = "field is immutable when `immutable` is set";
pub(super) const FIELD_IMMUTABLE: &str = "field is immutable";

/// Adds a fault for each thing that `check` says about `value`.
pub(super) fn check_name(
    field: &str,
    value: &str,
    check: fn(&str) -> Vec<String>,
    errors: &mut Vec<FieldError>,
) {
    errors.extend(check(value).into_iter().map(|detail| FieldError::invalid(field, value, detail)));
}

// Namespaces

pub(super) fn namespace_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if request.operation == Operation::Create {
        if let Some(spec) = child(object, "spec") {
            let listed = spec
                .get("finalizers")
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|finalizer| finalizer == "kubernetes"));
            if !listed {
                match spec.get_mut("finalizers").and_then(Value::as_array_mut) {
                    Some(list) => list.push("kubernetes".into()),
                    None => spec["finalizers"] = json!(["kubernetes"]),
                }
            }
        }
        if let Some(fields) = object.as_object_mut() {
            fields.insert("status".to_owned(), json!({"phase": "Active"}));
        }
    }
    let name = match (object::name(object), request.name) {
        ("", name) => name.to_owned(),
        (name, _) => name.to_owned(),
    };
    if !name.is_empty()
        && let Some(labels) = child(object, "metadata").and_then(|metadata| child(metadata, "labels"))
    {
        labels["kubernetes.io/metadata.name"] = name.into();
    }
}

pub(super) fn namespace_validate(
    _: &Admission<'_>,
    object: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let name = object::name(object);
    if !name.is_empty() {
        check_name("metadata.name", name, is_dns1123_label, errors);
    }
}

// Nodes

pub(super) fn node_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let mut seen = HashSet::new();
    for (index, taint) in list(object, "/spec/taints").iter().enumerate() {
        let at = format!("spec.taints[{index}]");
        let (key, effect) = (text(taint, "/key"), text(taint, "/effect"));
        if key.is_empty() {
            errors.push(FieldError::required(format!("{at}.key"), ""));
        }
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if effect.is_empty() {
            errors.push(FieldError::required(format!("{at}.effect"), ""));
        } else if !known.contains(&effect) {
            errors.push(FieldError::not_supported(format!("{at}.effect"), effect, known));
        }
        if !seen.insert((key, effect)) {
            errors.push(FieldError::with_value(FieldErrorType::Duplicate, at, taint.clone(), ""));
        }
    }
    if let Some(old) = old
        && !text(old, "/spec/providerID").is_empty()
        && !same(object, old, "/spec/providerID")
    {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.providerID", detail));
    }
}

// Secrets and ConfigMaps

/// `stringData` becomes `data`; the type is `Opaque`.
pub(super) fn secret_default(_: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    if let Some(Value::Object(plain)) = fields.remove("stringData")
        && !plain.is_empty()
    {
        let data = fields.entry("data").or_insert_with(|| json!({}));
        if data.is_null() {
            *data = Value::Object(Map::new());
        }
        if let Some(data) = data.as_object_mut() {
            for (key, value) in plain {
                let bytes = value.as_str().unwrap_or_default().as_bytes();
                data.insert(key, base64::engine::general_purpose::STANDARD.encode(bytes).into());
            }
        }
    }
    default(object, "type", "Opaque");
}

/// How many bytes a base64 text stands for; `None` when it is none.
fn decoded_length(value: &str) -> Option<usize> {
    base64::engine::general_purpose::STANDARD.decode(value).ok().map(|bytes| bytes.len())
}

fn check_immutable(object: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Vec<FieldError>) {
    let Some(old) = old.filter(|old| flag(old, "/immutable")) else { return };
    if !flag(object, "/immutable") {
        errors.push(FieldError::forbidden("immutable", IMMUTABLE));
    }
    for name in fields {
        // Go sees an empty map and a missing one as the same.
        let filled =
            |object: &'_ Value| map(object, &format!("/{name}")).filter(|map| !map.is_empty()).cloned();
        if filled(object) != filled(old) {
            errors.push(FieldError::forbidden(*name, IMMUTABLE));
        }
    }
}

/// The keys that a Secret of a type must have.
const SECRET_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

pub(super) fn secret_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let mut total = 0;
    for (key, value) in map(object, "/data").into_iter().flatten() {
        check_name(&format!("data[{key}]"), key, is_config_map_key, errors);
        match value.as_str().map(decoded_length) {
            Some(Some(length)) => total += length,
            Some(None) => {
                errors.push(FieldError::invalid(format!("data[{key}]"), "<value>", "must be base64-encoded"));
            }
            None => {}
        }
    }
    if total > MOST_DATA_BYTES {
        errors.push(FieldError::too_long("data", MOST_DATA_BYTES));
    }
    let secret_type = text(object, "/type");
    if secret_type == "kubernetes.io/service-account-token"
        && text(object, "/metadata/annotations/kubernetes.io~1service-account.name").is_empty()
    {
        let field = "metadata.annotations[kubernetes.io/service-account.name]";
        errors.push(FieldError::required(field, ""));
    }
    if secret_type == "kubernetes.io/basic-auth"
        && ["username", "password"].iter().all(|key| object.pointer(&format!("/data/{key}")).is_none())
    {
        errors.push(FieldError::required("data[username]", ""));
        errors.push(FieldError::required("data[password]", ""));
    }
    for (_, keys) in SECRET_KEYS.iter().filter(|(name, _)| *name == secret_type) {
        for key in *keys {
            if object.pointer(&format!("/data/{key}")).is_none() {
                errors.push(FieldError::required(format!("data[{key}]"), ""));
            }
        }
    }
    if let Some(old) = old
        && !same(object, old, "/type")
    {
        errors.push(FieldError::invalid("type", secret_type, FIELD_IMMUTABLE));
    }
    check_immutable(object, old, &["data"], errors);
}

pub(super) fn config_map_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let (data, binary) = (map(object, "/data"), map(object, "/binaryData"));
    let mut total = 0;
    for (key, value) in data.into_iter().flatten() {
        check_name(&format!("data[{key}]"), key, is_config_map_key, errors);
        if binary.is_some_and(|binary| binary.contains_key(key)) {
            let detail = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(format!("data[{key}]"), key.as_str(), detail));
        }
        total += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary.into_iter().flatten() {
        check_name(&format!("binaryData[{key}]"), key, is_config_map_key, errors);
        match value.as_str().map(decoded_length) {
            Some(Some(length)) => total += length,
            Some(None) => {
                let field = format!("binaryData[{key}]");
                errors.push(FieldError::invalid(field, "<value>", "must be base64-encoded"));
            }
            None => {}
        }
    }
    if total > MOST_DATA_BYTES {
        errors.push(FieldError::too_long("", MOST_DATA_BYTES));
    }
    check_immutable(object, old, &["data", "binaryData"], errors);
}

// Services

/// A Service's defaults. No cluster IP is allocated, since nothing routes one here: a Service that names none is
/// headless (`None`).
pub(super) fn service_default(_: &Admission<'_>, object: &mut Value, old: Option<&Value>) {
    let Some(spec) = child(object, "spec") else { return };
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        default(port, "protocol", "TCP");
        let is_unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(target) => target == 0 || target == "",
        };
        if is_unset && let Some(number) = port.get("port").cloned() {
            port["targetPort"] = number;
        }
    }
    if text(spec, "/type") == "ExternalName" {
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("clusterIP");
            fields.remove("clusterIPs");
        }
        return;
    }
    default(spec, "internalTrafficPolicy", "Cluster");
    if matches!(text(spec, "/type"), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", "Cluster");
        if text(spec, "/type") == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }
    // An update that leaves the address out keeps it.
    let kept = old.map(|old| text(old, "/spec/clusterIP")).filter(|kept| !kept.is_empty());
    default(spec, "clusterIP", kept.unwrap_or("None"));
    let address = text(spec, "/clusterIP").to_owned();
    default(spec, "clusterIPs", json!([address]));
    default(spec, "ipFamilies", json!([if address.contains(':') { "IPv6" } else { "IPv4" }]));
    default(spec, "ipFamilyPolicy", "SingleStack");
    if let Some(fields) = object.as_object_mut() {
        fields.entry("status").or_insert_with(|| json!({"loadBalancer": {}}));
    }
}

pub(super) fn service_validate(
    request: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    if request.operation == Operation::Create && !object::name(object).is_empty() {
        check_name("metadata.name", object::name(object), is_dns1035_label, errors);
    }
    let kind = text(object, "/spec/type");
    let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !known.contains(&kind) {
        errors.push(FieldError::not_supported("spec.type", kind, known));
    }
    let ports = list(object, "/spec/ports");
    let address = text(object, "/spec/clusterIP");
    if ports.is_empty() && address != "None" && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if kind == "ExternalName" {
        let name = text(object, "/spec/externalName");
        if name.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else {
            check_name("spec.externalName", name.trim_end_matches('.'), is_dns1123_subdomain, errors);
        }
    } else if !matches!(address, "" | "None") && address.parse::<std::net::IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", address, detail));
    }
    let affinity = text(object, "/spec/sessionAffinity");
    if !matches!(affinity, "None" | "ClientIP") {
        errors.push(FieldError::not_supported("spec.sessionAffinity", affinity, ["ClientIP", "None"]));
    }
    check_service_ports(ports, errors);
    if let Some(old) = old
        && kind != "ExternalName"
        && text(old, "/spec/type") != "ExternalName"
        && !text(old, "/spec/clusterIP").is_empty()
        && !same(object, old, "/spec/clusterIP")
    {
        let value = json!([address]);
        let detail = "may not change once set";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", value, detail));
    }
}

fn check_service_ports(ports: &[Value], errors: &mut Vec<FieldError>) {
    let (mut names, mut pairs) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let name = text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !name.is_empty() {
            check_name(&format!("{at}.name"), name, is_dns1123_label, errors);
            if !names.insert(name) {
                let field = format!("{at}.name");
                errors.push(FieldError::with_value(FieldErrorType::Duplicate, field, name.into(), ""));
            }
        }
        let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
        check_port(format!("{at}.port"), number, errors);
        let protocol = text(port, "/protocol");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            errors.push(FieldError::not_supported(
                format!("{at}.protocol"),
                protocol,
                ["SCTP", "TCP", "UDP"],
            ));
        }
        if !pairs.insert((number, protocol)) {
            let value = json!({"port": number, "protocol": protocol});
            errors.push(FieldError::with_value(FieldErrorType::Duplicate, at.clone(), value, ""));
        }
        if let Some(target) = port.get("targetPort").and_then(Value::as_i64) {
            check_port(format!("{at}.targetPort"), target, errors);
        }
    }
}

/// `IsValidPortNum`.
pub(super) fn check_port(field: String, port: i64, errors: &mut Vec<FieldError>) {
    if !(1..=65535).contains(&port) {
        errors.push(FieldError::invalid(field, port, "must be between 1 and 65535, inclusive"));
    }
}

// PriorityClasses

pub(super) fn priority_class_default(_: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    default(object, "preemptionPolicy", "PreemptLowerPriority");
}

/// Priorities above this are Kubernetes' own.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

pub(super) fn priority_class_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let value = crate::field::number(object, "/value");
    let name = object::name(object);
    let known = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
    if name.starts_with("system-") {
        if !known.contains(&(name, value)) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: \
                          it is not a known system priority class";
            errors.push(FieldError::forbidden("metadata.name", detail));
        }
    } else if value > HIGHEST_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.push(FieldError::forbidden("value", detail));
    }
    let policy = text(object, "/preemptionPolicy");
    if !matches!(policy, "" | "PreemptLowerPriority" | "Never") {
        errors.push(FieldError::not_supported("preemptionPolicy", policy, ["Never", "PreemptLowerPriority"]));
    }
    if let Some(old) = old {
        if crate::field::number(old, "/value") != value {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        if !same(object, old, "/preemptionPolicy") {
            errors.push(FieldError::invalid("preemptionPolicy", policy, FIELD_IMMUTABLE));
        }
    }
}

// Leases

pub(super) fn lease_validate(
    _: &Admission<'_>,
    object: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let seconds = object.pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64);
    if let Some(seconds) = seconds.filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
    }
    let transitions = object.pointer("/spec/leaseTransitions").and_then(Value::as_i64);
    if let Some(transitions) = transitions.filter(|transitions| *transitions < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("spec.leaseTransitions", transitions, detail));
    }
}

// EndpointSlices

pub(super) fn slice_default(_: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    for port in items_mut(object, "ports") {
        // An unset name is "", which `default` would take for unset again.
        if port.get("name").is_none_or(Value::is_null) {
            port["name"] = "".into();
        }
        default(port, "protocol", "TCP");
    }
    if object.get("endpoints").is_none_or(Value::is_null)
        && let Some(fields) = object.as_object_mut()
    {
        fields.insert("endpoints".to_owned(), json!([]));
    }
}

pub(super) fn slice_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let kind = text(object, "/addressType");
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
        errors.push(FieldError::not_supported("addressType", kind, ["FQDN", "IPv4", "IPv6"]));
    }
    for (index, endpoint) in list(object, "/endpoints").iter().enumerate() {
        if list(endpoint, "/addresses").is_empty() {
            let detail = "must contain at least 1 address";
            errors.push(FieldError::required(format!("endpoints[{index}].addresses"), detail));
        }
    }
    if let Some(old) = old
        && !same(object, old, "/addressType")
    {
        errors.push(FieldError::invalid("addressType", kind, FIELD_IMMUTABLE));
    }
}
