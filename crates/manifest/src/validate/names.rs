//! Kubernetes' rules for names, with its own texts (`k8s.io/apimachinery/pkg/util/validation`).

/// Longest DNS label, in bytes (RFC 1123).
const LABEL_MOST: usize = 63;

/// Longest DNS subdomain, in bytes (RFC 1123).
const SUBDOMAIN_MOST: usize = 253;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
     must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
     '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What keeps `name` from being a DNS label (`my-name`, at most 63 bytes); empty where nothing does.
pub(super) fn dns_label_faults(name: &str) -> Vec<String> {
    faults(name, LABEL_MOST, is_label, LABEL_TEXT)
}

/// What keeps `name` from being a DNS subdomain (`example.com`, at most 253 bytes); empty where nothing does.
pub(super) fn dns_subdomain_faults(name: &str) -> Vec<String> {
    faults(name, SUBDOMAIN_MOST, |name| name.split('.').all(is_label), SUBDOMAIN_TEXT)
}

fn faults(name: &str, most: usize, shape: fn(&str) -> bool, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > most {
        faults.push(format!("must be no more than {most} characters"));
    }
    if !shape(name) {
        faults.push(text.to_owned());
    }
    faults
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, of any length.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            inner(*first) && inner(*last) && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "my-name", "123-abc", "a--b", longest.as_str()] {
            assert_eq!(dns_label_faults(good), Vec::<String>::new(), "`{good}`");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "é", " "] {
            assert_eq!(dns_label_faults(bad), [LABEL_TEXT], "`{bad}`");
        }
        assert_eq!(dns_label_faults(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(dns_label_faults(&"A".repeat(64)), ["must be no more than 63 characters", LABEL_TEXT]);
    }

    #[test]
    fn subdomains() {
        let longest = format!("{}.b", "a".repeat(251));
        for good in ["a", "example.com", "a.b.c", "1.2", longest.as_str()] {
            assert_eq!(dns_subdomain_faults(good), Vec::<String>::new(), "`{good}`");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a.-b", "A.b"] {
            assert_eq!(dns_subdomain_faults(bad), [SUBDOMAIN_TEXT], "`{bad}`");
        }
        assert_eq!(dns_subdomain_faults(&"a".repeat(254)), ["must be no more than 253 characters"]);
    }
}
