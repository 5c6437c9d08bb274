//! Who is connected to guests through the server, and when somebody was last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::families::{Families, Metric};

/// What a connection is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// A serial console.
    Console,
    /// A display.
    Vnc,
    /// A port.
    PortForward,
}

impl Stream {
    fn metric(self) -> Metric {
        match self {
            Self::Console => {
                Metric::gauge("kubevirt_console_active_connections", "Clients of an instance's console")
            }
            Self::Vnc => Metric::gauge("kubevirt_vnc_active_connections", "Clients of an instance's display"),
            Self::PortForward => {
                Metric::gauge("kubevirt_portforward_active_tunnels", "Connections to an instance's ports")
            }
        }
    }
}

const LAST: Metric = Metric::gauge(
    "kubevirt_vmi_last_api_connection_timestamp_seconds",
    "When somebody was last connected to an instance's console, display or ports",
);

/// Of so many instances it is known when somebody was last connected; beyond that the longest ago is forgotten. A scrape
/// forgets those that are gone.
const MOST_REMEMBERED: usize = 10_000;

/// An instance's namespace and name.
type Instance = (String, String);

/// The connections that there are, counted, and the last ones. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// What nobody is connected to takes no room.
    open: BTreeMap<(Stream, Instance), u64>,
    last: BTreeMap<Instance, Timestamp>,
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub struct Connection {
    all: Connections,
    key: (Stream, Instance),
    is_established: bool,
}

impl Connections {
    /// Counts one more.
    pub fn open(&self, stream: Stream, namespace: &str, instance: &str) -> Connection {
        let key = (stream, (namespace.to_owned(), instance.to_owned()));
        *self.lock().open.entry(key.clone()).or_default() += 1;
        Connection { all: self.clone(), key, is_established: false }
    }

    /// Tells how many there are, and when the last one was of each instance that was `created` before. `began` is a time
    /// before `created` was known: instances may have come since.
    pub fn tell(
        &self,
        created: impl Fn(&Instance) -> Option<Timestamp>,
        began: Timestamp,
        families: &mut Families,
    ) {
        let labels = |(namespace, instance): &Instance| {
            vec![("namespace", namespace.clone()), ("vmi", instance.clone())]
        };
        let mut known = self.lock();
        for ((stream, instance), count) in &known.open {
            families.add(stream.metric(), labels(instance), *count as f64);
        }
        known.last.retain(|instance, at| {
            // Another one may have had the name.
            let is_its_own = created(instance).is_some_and(|created| created <= *at);
            if is_its_own {
                families.add(LAST, labels(instance), at.as_second() as f64);
            }
            is_its_own || *at >= began
        });
    }

    fn note(&self, instance: &Instance, now: Timestamp) {
        let mut known = self.lock();
        known.last.insert(instance.clone(), now);
        if known.last.len() > MOST_REMEMBERED {
            let oldest = known.last.iter().min_by_key(|(_, at)| **at).map(|(instance, _)| instance.clone());
            oldest.and_then(|oldest| known.last.remove(&oldest));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// The guest has been reached. From here on somebody is connected, until the end.
    pub fn established(&mut self) {
        self.is_established = true;
        self.all.note(&self.key.1, Timestamp::now());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_established {
            self.all.note(&self.key.1, Timestamp::now());
        }
        let mut known = self.all.lock();
        if let Some(count) = known.open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                known.open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn connections_are_counted_while_they_are_there() {
        let connections = Connections::default();
        let told = |name: &str| {
            let mut families = Families::default();
            connections.tell(|_| None, Timestamp::UNIX_EPOCH, &mut families);
            families.of(name)
        };
        let one = connections.open(Stream::PortForward, "n", "a");
        let two = connections.open(Stream::PortForward, "n", "a");
        let console = connections.open(Stream::Console, "n", "a");
        let tunnels = "kubevirt_portforward_active_tunnels";
        assert_eq!(told(tunnels), [("namespace=n,vmi=a".to_owned(), 2.0)]);
        drop(one);
        assert_eq!(told(tunnels), [("namespace=n,vmi=a".to_owned(), 1.0)]);
        assert_eq!(told("kubevirt_console_active_connections"), [("namespace=n,vmi=a".to_owned(), 1.0)]);
        assert_eq!(told("kubevirt_vnc_active_connections"), []);
        drop((two, console));
        assert_eq!(told(tunnels), []);
        assert!(connections.lock().open.is_empty());
    }

    #[test]
    fn the_last_connection_is_that_of_an_instance_that_is_there() {
        let connections = Connections::default();
        let at = |second: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
        let told = |created: &dyn Fn(&str) -> Option<i64>, began: i64| {
            let mut families = Families::default();
            connections.tell(|(_, name)| created(name).map(at), at(began), &mut families);
            families.of(LAST.name)
        };
        let open = |name: &str, second: i64| connections.note(&("n".to_owned(), name.to_owned()), at(second));
        let line = |name: &str, second: f64| (format!("namespace=n,vmi={name}"), second);
        // Who has not reached a guest has not been connected.
        drop(connections.open(Stream::Vnc, "n", "a"));
        assert_eq!(told(&|_| Some(1), 1), []);
        for (name, second) in [("a", 10), ("b", 11), ("a", 12), ("c", 13)] {
            open(name, second);
        }
        let of_all = |_: &str| Some(12);
        // The instance `b` is another one than that of the connection, and there is no `c` yet.
        let created = |name: &str| if name == "c" { None } else { of_all(name) };
        assert_eq!(told(&created, 13), [line("a", 12.0)]);
        assert_eq!(told(&of_all, 14), [line("a", 12.0), line("c", 13.0)]);
        assert_eq!(told(&|name| of_all(name).filter(|_| name == "c"), 15), [line("c", 13.0)]);
        assert_eq!(told(&of_all, 16), [line("c", 13.0)]);

        for number in 0..MOST_REMEMBERED {
            open(&format!("m{number}"), 20);
        }
        assert_eq!(connections.lock().last.len(), MOST_REMEMBERED);
        assert!(!told(&of_all, 21).contains(&line("c", 13.0)), "the oldest is forgotten");

        let began = Timestamp::now();
        let mut connection = connections.open(Stream::Console, "n", "d");
        let last = || connections.lock().last.get(&("n".to_owned(), "d".to_owned())).copied();
        connection.established();
        let opened = last().unwrap();
        drop(connection);
        assert!(began <= opened && opened < last().unwrap(), "its end counts, too");
    }
}
