//! Who is connected to guests through the server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// To what, and the instance's namespace and name.
type Key = (Stream, String, String);

/// The connections that there are, counted. Clones share everything; what nobody is connected to takes no room.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<BTreeMap<Key, u64>>>);

/// A connection, until it is dropped.
#[derive(Debug)]
pub struct Connection {
    all: Connections,
    key: Key,
}

impl Connections {
    /// Counts one more.
    pub fn open(&self, stream: Stream, namespace: &str, instance: &str) -> Connection {
        let key = (stream, namespace.to_owned(), instance.to_owned());
        *self.lock().entry(key.clone()).or_default() += 1;
        Connection { all: self.clone(), key }
    }

    /// Tells how many there are.
    pub fn tell(&self, families: &mut Families) {
        for ((stream, namespace, instance), count) in self.lock().iter() {
            let labels = vec![("namespace", namespace.clone()), ("vmi", instance.clone())];
            families.add(stream.metric(), labels, *count as f64);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_while_they_are_there() {
        let connections = Connections::default();
        let told = |name: &str| {
            let mut families = Families::default();
            connections.tell(&mut families);
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
        assert!(connections.lock().is_empty());
    }
}
