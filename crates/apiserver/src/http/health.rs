//! `/healthz`, `/livez` and `/readyz`, in the words of `k8s.io/apiserver/pkg/server/healthz`.

use std::fmt::Write as _;

use super::query::Query;

/// Which question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/healthz`, which Kubernetes keeps for clients of old.
    Healthz,
    /// `/livez`: whether the process has to be started anew.
    Livez,
    /// `/readyz`: whether requests are served.
    Readyz,
}

impl Endpoint {
    /// The endpoint of a path, and the one check that it names (`/readyz/ping`).
    pub fn of(path: &str) -> Option<(Self, &str)> {
        let (first, rest) = path.strip_prefix('/')?.split_once('/').unwrap_or((path.strip_prefix('/')?, ""));
        let endpoint = match first {
            "healthz" => Self::Healthz,
            "livez" => Self::Livez,
            "readyz" => Self::Readyz,
            _ => return None,
        };
        Some((endpoint, rest))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// `ping`, `store`, …
    pub name: &'static str,
    /// Whether all is well. Why not is for logs, and never told here.
    pub passed: bool,
}

/// The answer: the HTTP status and the text. `None` when `only` names a check that does not exist.
pub fn report(endpoint: Endpoint, checks: &[Check], only: &str, query: &Query) -> Option<(u16, String)> {
    let only = only.trim_end_matches('/');
    if !only.is_empty() {
        let check = checks.iter().find(|check| check.name == only)?;
        return Some(if check.passed {
            (200, "ok".to_owned())
        } else {
            (500, format!("internal server error: {}\n", "reason withheld"))
        });
    }
    let excluded: Vec<_> = query.all("exclude").collect();
    let mut text = String::new();
    let mut failed = false;
    for check in checks {
        // Writing into a `String` cannot fail.
        let _ = if excluded.contains(&check.name) {
            writeln!(text, "[+]{} excluded: ok", check.name)
        } else if check.passed {
            writeln!(text, "[+]{} ok", check.name)
        } else {
            failed = true;
            writeln!(text, "[-]{} failed: reason withheld", check.name)
        };
    }
    let unknown: Vec<_> = excluded
        .iter()
        .filter(|name| checks.iter().all(|check| check.name != **name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        // Writing into a `String` cannot fail.
        let _ = writeln!(
            text,
            "warn: some health checks cannot be excluded: no matches for {}",
            unknown.join(",")
        );
    }
    let name = endpoint.name();
    if failed {
        return Some((500, format!("{text}{name} check failed\n")));
    }
    if query.has("verbose") {
        return Some((200, format!("{text}{name} check passed\n")));
    }
    Some((200, "ok".to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CHECKS: [Check; 2] = [Check { name: "ping", passed: true }, Check { name: "store", passed: false }];

    fn ask(path: &str, query: &str, checks: &[Check]) -> Option<(u16, String)> {
        let (endpoint, only) = Endpoint::of(path).unwrap();
        report(endpoint, checks, only, &Query::parse(query))
    }

    #[test]
    fn the_texts_are_those_of_kubernetes() {
        assert_eq!(ask("/readyz", "", &CHECKS[..1]).unwrap(), (200, "ok".to_owned()));
        assert_eq!(
            ask("/readyz", "verbose", &CHECKS[..1]).unwrap(),
            (200, "[+]ping ok\nreadyz check passed\n".to_owned())
        );
        assert_eq!(
            ask("/livez", "", &CHECKS).unwrap(),
            (500, "[+]ping ok\n[-]store failed: reason withheld\nlivez check failed\n".to_owned())
        );
        assert_eq!(
            ask("/healthz", "verbose&exclude=store&exclude=x", &CHECKS).unwrap().1,
            "[+]ping ok\n[+]store excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\n\
             healthz check passed\n"
        );
        assert_eq!(ask("/readyz/ping", "", &CHECKS).unwrap().0, 200);
        assert_eq!(ask("/readyz/store", "", &CHECKS).unwrap().0, 500);
        assert_eq!(ask("/readyz/nothing", "", &CHECKS), None);
        assert_eq!(Endpoint::of("/readyzz"), None);
    }
}
