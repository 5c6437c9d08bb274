//! What names may look like, with the texts of `k8s.io/apimachinery/pkg/util/validation`.

use crate::kind::{Family, Kind};

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                          start and end with an alphanumeric character";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                              '.', and must start and end with an alphanumeric character";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                               alphabetic character, and end with an alphanumeric character";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                              alphanumeric character";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                                '.', and must start and end with an alphanumeric character";
const CONFIG_KEY: &str = "[-._a-zA-Z0-9]+";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";

/// A rule for names: the faults of a name, or of a prefix to which a suffix will be added (`true`).
pub type NameRule = fn(&str, bool) -> Vec<String>;

/// What objects of a kind may be called.
///
/// DNS subdomains, as for custom resources, except where Kubernetes says otherwise: Namespaces are labels of RFC 1123, Services
/// those of RFC 1035, RBAC's kinds are any segment of a path, and events of the core group may be called anything.
pub fn name_rule(kind: &Kind) -> NameRule {
    if kind.family == Family::Custom {
        return subdomain_rule;
    }
    match (kind.group.as_str(), kind.names.kind.as_str()) {
        ("", "Namespace") | ("apps", "StatefulSet") => label_rule,
        ("", "Service") => label_1035_rule,
        ("", "Event") | ("rbac.authorization.k8s.io", _) => segment_rule,
        _ => subdomain_rule,
    }
}

fn label_rule(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_label(&masked(name, prefix))
}

fn label_1035_rule(name: &str, prefix: bool) -> Vec<String> {
    is_dns1035_label(&masked(name, prefix))
}

fn subdomain_rule(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_subdomain(&masked(name, prefix))
}

fn segment_rule(name: &str, prefix: bool) -> Vec<String> {
    if prefix { illegal_characters(name) } else { is_path_segment(name) }
}

/// A prefix may end in a dash, as more will follow.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-').map(|rest| (rest, rest.chars().next_back())) {
        // What stands before the dash gives way to a letter as well, as in Kubernetes: it may be a dash again.
        Some((rest, Some(last))) if prefix && last.is_ascii() => format!("{}a", &rest[..rest.len() - 1]),
        _ => name.to_owned(),
    }
}

/// What is wrong with `text` as a DNS label (RFC 1123), in Kubernetes' words; empty if nothing is.
pub fn is_dns1123_label(text: &str) -> Vec<String> {
    let mut faults = longer_than(63, text);
    if !label(text, is_lower_or_digit) {
        if subdomain(text) {
            faults.push("must not contain dots".to_owned());
        } else {
            faults.push(explain(LABEL_TEXT, LABEL, &["my-name", "123-abc"]));
        }
    }
    faults
}

/// What is wrong with `text` as a DNS name (RFC 1123), in Kubernetes' words; empty if nothing is.
pub fn is_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut faults = longer_than(253, text);
    if !subdomain(text) {
        faults.push(explain(SUBDOMAIN_TEXT, SUBDOMAIN, &["example.com"]));
    }
    faults
}

/// What is wrong with `text` as a DNS label (RFC 1035), in Kubernetes' words; empty if nothing is.
pub fn is_dns1035_label(text: &str) -> Vec<String> {
    let mut faults = longer_than(63, text);
    if !label(text, |byte| byte.is_ascii_lowercase()) {
        faults.push(explain(LABEL_1035_TEXT, LABEL_1035, &["my-name", "abc-123"]));
    }
    faults
}

/// What is wrong with `text` as a label key (`example.com/name`), in Kubernetes' words; empty if nothing is.
pub fn is_qualified_name(text: &str) -> Vec<String> {
    let explained = || explain(QUALIFIED_TEXT, QUALIFIED, &["MyName", "my.name", "123-abc"]);
    let mut faults = Vec::new();
    let parts: Vec<_> = text.splitn(4, '/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                let prefix_faults = is_dns1123_subdomain(prefix).into_iter();
                faults.extend(prefix_faults.map(|fault| format!("prefix part {fault}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                explained()
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    }
    faults.extend(longer_than(63, name).into_iter().map(|fault| format!("name part {fault}")));
    if !qualified(name) {
        faults.push(format!("name part {}", explained()));
    }
    faults
}

/// What is wrong with `text` as a label value, in Kubernetes' words; empty if nothing is.
pub fn is_label_value(text: &str) -> Vec<String> {
    let mut faults = longer_than(63, text);
    if !text.is_empty() && !qualified(text) {
        faults.push(explain(LABEL_VALUE_TEXT, LABEL_VALUE, &["MyValue", "my_value", "12345"]));
    }
    faults
}

/// What is wrong with `text` as a key in a ConfigMap or Secret, in Kubernetes' words; empty if nothing is.
pub fn is_config_map_key(text: &str) -> Vec<String> {
    let mut faults = longer_than(253, text);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.is_empty() || !text.bytes().all(known) {
        faults.push(explain(CONFIG_KEY_TEXT, CONFIG_KEY, &["key.name", "KEY_NAME", "key-name"]));
    }
    match text {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// What is wrong with `text` as one segment of a path, in Kubernetes' words; empty if nothing is.
pub fn is_path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    illegal_characters(text)
}

fn illegal_characters(text: &str) -> Vec<String> {
    let illegal = ['/', '%'].into_iter().filter(|character| text.contains(*character));
    illegal.map(|character| format!("may not contain '{character}'")).collect()
}

fn longer_than(most: usize, text: &str) -> Vec<String> {
    if text.len() > most { vec![format!("must be no more than {most} characters")] } else { Vec::new() }
}

/// `RULE (e.g. 'a',  or 'b', regex used for validation is 'PATTERN')`, with the spaces that Kubernetes has.
fn explain(rule: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

fn is_lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn label(text: &str, first: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(start), Some(end)) => {
            first(*start)
                && is_lower_or_digit(*end)
                && bytes.iter().all(|byte| is_lower_or_digit(*byte) || *byte == b'-')
        }
        _ => false,
    }
}

fn subdomain(text: &str) -> bool {
    text.split('.').all(|part| label(part, is_lower_or_digit))
}

fn qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ends && bytes.iter().all(known)
}
