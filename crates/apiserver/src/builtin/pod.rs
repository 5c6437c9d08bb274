//! Defaulting and validation of Pods and of the Pod templates in other kinds.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::core::{check_name, check_port};
use super::pod_update;
use crate::field::{child, default, flag, items_mut, list, map, text};
use crate::kind::{Admission, Operation};
use crate::metadata::{is_dns1123_label, is_dns1123_subdomain};
use crate::status::{FieldError, FieldErrorType};

/// The selectable fields of Pods.
pub(super) const FIELDS: &[(&str, &str, &str)] = &[
    ("spec.hostNetwork", "/spec/hostNetwork", "false"),
    ("spec.nodeName", "/spec/nodeName", ""),
    ("spec.restartPolicy", "/spec/restartPolicy", ""),
    ("spec.schedulerName", "/spec/schedulerName", ""),
    ("spec.serviceAccountName", "/spec/serviceAccountName", ""),
    ("status.nominatedNodeName", "/status/nominatedNodeName", ""),
    ("status.phase", "/status/phase", ""),
    ("status.podIP", "/status/podIP", ""),
];

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// `SetDefaults_Pod` and the ServiceAccount admission plugin, as far as they concern a Pod that nothing mounts into.
pub(super) fn pod_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        for name in ["initContainers", "containers"] {
            for container in items_mut(spec, name) {
                default_requests(container);
            }
        }
        default(spec, "enableServiceLinks", true);
        if request.operation == Operation::Create {
            default(spec, "serviceAccountName", "default");
            default(spec, "preemptionPolicy", "PreemptLowerPriority");
            default(spec, "priority", 0);
        }
        default_spec(spec);
    }
    if request.operation == Operation::Create {
        let class = quality_class(object);
        if let Some(fields) = object.as_object_mut() {
            fields.insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
        }
    }
}

/// A limit without a request is the request too.
fn default_requests(container: &mut Value) {
    let Some(limits) = map(container, "/resources/limits").cloned() else { return };
    if let Some(requests) = child(container, "resources")
        .and_then(|resources| child(resources, "requests"))
        .and_then(Value::as_object_mut)
    {
        for (name, value) in limits {
            requests.entry(name).or_insert(value);
        }
    }
}

/// `SetDefaults_PodSpec` with those of everything inside.
pub(super) fn default_spec(spec: &mut Value) {
    if flag(spec, "/hostNetwork") {
        for name in CONTAINER_LISTS {
            for port in items_mut(spec, name).flat_map(|container| items_mut(container, "ports")) {
                if let Some(number) = port.get("containerPort").cloned()
                    && port.get("hostPort").is_none_or(|host| host.is_null() || *host == 0)
                {
                    port["hostPort"] = number;
                }
            }
        }
    }
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    // The deprecated name of the field goes with the new one.
    if let Some(account) = spec.get("serviceAccountName").filter(|name| !name.is_null()).cloned() {
        spec["serviceAccount"] = account;
    } else if let Some(account) = spec.get("serviceAccount").filter(|name| !name.is_null()).cloned() {
        spec["serviceAccountName"] = account;
    }
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
    for name in CONTAINER_LISTS {
        for container in items_mut(spec, name) {
            default_container(container);
        }
    }
    for volume in items_mut(spec, "volumes") {
        default_volume(volume);
    }
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        default(constraint, "whenUnsatisfiable", "DoNotSchedule");
    }
}

fn default_container(container: &mut Value) {
    for port in items_mut(container, "ports") {
        default(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(reference, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) else { continue };
        if let Some(get) = probe.get_mut("httpGet") {
            default(get, "path", "/");
            default(get, "scheme", "HTTP");
        }
        for (field, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            default(probe, field, value);
        }
    }
    default(container, "resources", json!({}));
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text(container, "/image"));
    default(container, "imagePullPolicy", policy);
}

/// An image by `latest` or by no tag at all is always pulled.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains('@') {
        return "IfNotPresent";
    }
    match last.rsplit_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn default_volume(volume: &mut Value) {
    let sources = [
        "secret",
        "configMap",
        "downwardAPI",
        "projected",
        "hostPath",
        "emptyDir",
        "persistentVolumeClaim",
        "ephemeral",
        "csi",
        "nfs",
        "iscsi",
        "image",
        "cephfs",
        "rbd",
        "fc",
        "glusterfs",
        "gitRepo",
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cinder",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "quobyte",
        "scaleIO",
        "storageos",
        "vsphereVolume",
    ];
    if !sources.iter().any(|source| volume.get(source).is_some_and(|source| !source.is_null())) {
        default(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            default(source, "defaultMode", 0o644);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        path.entry("type").or_insert_with(|| "".into());
    }
    for name in ["projected", "downwardAPI"] {
        let Some(source) = volume.get_mut(name) else { continue };
        for item in items_mut(source, "items") {
            default_field_reference(item);
        }
        for projection in items_mut(source, "sources") {
            if let Some(token) = projection.get_mut("serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = projection.get_mut("downwardAPI") {
                items_mut(downward, "items").for_each(default_field_reference);
            }
        }
    }
}

fn default_field_reference(item: &mut Value) {
    if let Some(reference) = item.get_mut("fieldRef") {
        default(reference, "apiVersion", "v1");
    }
}

/// `status.qosClass`, from the requests and limits for CPU and memory.
pub(super) fn quality_class(pod: &Value) -> &'static str {
    let containers = list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers"));
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        for name in ["cpu", "memory"] {
            let found = |of: &str| {
                let value = container.pointer(&format!("/resources/{of}/{name}"));
                value.filter(|value| !value.is_null() && *value != "0" && **value != 0)
            };
            let (request, limit) = (found("requests"), found("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

pub(super) fn pod_validate(
    request: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(old) = old {
        if request.subresource.is_empty() {
            pod_update::check(object, old, errors);
        }
        return;
    }
    let empty = Value::Null;
    let spec = object.get("spec").unwrap_or(&empty);
    check_spec(spec, "spec", errors);
    if !list(spec, "/ephemeralContainers").is_empty() {
        let detail = "cannot be set on create";
        errors.push(FieldError::forbidden("spec.ephemeralContainers", detail));
    }
}

/// The part of `ValidatePodSpec` that does not need a kubelet to make sense.
pub(super) fn check_spec(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let mut volumes = HashSet::new();
    for (index, volume) in list(spec, "/volumes").iter().enumerate() {
        let field = format!("{at}.volumes[{index}].name");
        check_unique_label(field, text(volume, "/name"), &mut volumes, errors);
    }
    let mut names = HashSet::new();
    let containers = list(spec, "/containers");
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{at}.containers"), ""));
    }
    for list_name in ["containers", "initContainers"] {
        for (index, container) in list(spec, &format!("/{list_name}")).iter().enumerate() {
            check_container(container, &format!("{at}.{list_name}[{index}]"), &mut names, &volumes, errors);
        }
    }
    let policy = text(spec, "/restartPolicy");
    let policies = ["Always", "OnFailure", "Never"];
    if policy.is_empty() {
        errors.push(FieldError::required(format!("{at}.restartPolicy"), ""));
    } else if !policies.contains(&policy) {
        errors.push(FieldError::not_supported(format!("{at}.restartPolicy"), policy, policies));
    }
    let policy = text(spec, "/dnsPolicy");
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    if policy.is_empty() {
        errors.push(FieldError::required(format!("{at}.dnsPolicy"), ""));
    } else if !policies.contains(&policy) {
        errors.push(FieldError::not_supported(format!("{at}.dnsPolicy"), policy, policies));
    }
    for name in ["serviceAccountName", "nodeName"] {
        let value = text(spec, &format!("/{name}"));
        if !value.is_empty() {
            check_name(&format!("{at}.{name}"), value, is_dns1123_subdomain, errors);
        }
    }
    for name in ["hostname", "subdomain"] {
        let value = text(spec, &format!("/{name}"));
        if !value.is_empty() {
            check_name(&format!("{at}.{name}"), value, is_dns1123_label, errors);
        }
    }
    let not_negative = "must be greater than or equal to 0";
    if let Some(grace) =
        spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).filter(|at| *at < 0)
    {
        errors.push(FieldError::invalid(format!("{at}.terminationGracePeriodSeconds"), grace, not_negative));
    }
    if let Some(deadline) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && !(1..=i64::from(i32::MAX)).contains(&deadline)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{at}.activeDeadlineSeconds"), deadline, detail));
    }
}

fn check_unique_label<'a>(
    field: String,
    name: &'a str,
    names: &mut HashSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    if name.is_empty() {
        errors.push(FieldError::required(field, ""));
        return;
    }
    check_name(&field, name, is_dns1123_label, errors);
    if !names.insert(name) {
        errors.push(FieldError::with_value(FieldErrorType::Duplicate, field, name.into(), ""));
    }
}

fn check_container<'a>(
    container: &'a Value,
    at: &str,
    names: &mut HashSet<&'a str>,
    volumes: &HashSet<&str>,
    errors: &mut Vec<FieldError>,
) {
    check_unique_label(format!("{at}.name"), text(container, "/name"), names, errors);
    let image = text(container, "/image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{at}.image"), image, detail));
    }
    let policy = text(container, "/imagePullPolicy");
    let policies = ["Always", "IfNotPresent", "Never"];
    if policy.is_empty() {
        errors.push(FieldError::required(format!("{at}.imagePullPolicy"), ""));
    } else if !policies.contains(&policy) {
        errors.push(FieldError::not_supported(format!("{at}.imagePullPolicy"), policy, policies));
    }
    for (index, port) in list(container, "/ports").iter().enumerate() {
        let at = format!("{at}.ports[{index}]");
        match port.get("containerPort").and_then(Value::as_i64).unwrap_or_default() {
            0 => errors.push(FieldError::required(format!("{at}.containerPort"), "")),
            number => check_port(format!("{at}.containerPort"), number, errors),
        }
        let protocol = text(port, "/protocol");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            errors.push(FieldError::not_supported(
                format!("{at}.protocol"),
                protocol,
                ["SCTP", "TCP", "UDP"],
            ));
        }
    }
    for (index, variable) in list(container, "/env").iter().enumerate() {
        let name = text(variable, "/name");
        let field = format!("{at}.env[{index}].name");
        if name.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if name.contains('=') {
            let detail = "a valid environment variable name must consist only of printable ASCII characters \
                          other than '='";
            errors.push(FieldError::invalid(field, name, detail));
        }
    }
    let mut paths = HashSet::new();
    for (index, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        let (name, path) = (text(mount, "/name"), text(mount, "/mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !volumes.contains(name) {
            let field = format!("{at}.name");
            errors.push(FieldError::with_value(FieldErrorType::NotFound, field, name.into(), ""));
        }
        if path.is_empty() {
            errors.push(FieldError::required(format!("{at}.mountPath"), ""));
        } else if !paths.insert(path) {
            let field = format!("{at}.mountPath");
            errors.push(FieldError::invalid(field, path, "must be unique"));
        }
    }
}
