//! How many virtual machines have been created.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::families::{Families, Metric};

const CREATED: Metric = Metric::counter("kubevirt_vm_created", "Virtual machines that were created");

/// Beyond so many namespaces the counters begin anew, as after a restart: names of those that are gone must not pile up.
const MOST_NAMESPACES: usize = 10_000;

/// Virtual machines that were created since the server has been started, by namespace. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Created(Arc<Mutex<BTreeMap<String, u64>>>);

impl Created {
    /// One more.
    pub fn add(&self, namespace: &str) {
        let mut counts = self.lock();
        if counts.len() >= MOST_NAMESPACES && !counts.contains_key(namespace) {
            counts.clear();
        }
        *counts.entry(namespace.to_owned()).or_default() += 1;
    }

    /// Tells how many there were.
    pub(super) fn tell(&self, families: &mut Families) {
        for (namespace, count) in self.lock().iter() {
            families.add(CREATED, vec![("namespace", namespace.clone())], *count as f64);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_counted_and_bounded() {
        let created = Created::default();
        let told = || {
            let mut families = Families::default();
            created.tell(&mut families);
            families.of("kubevirt_vm_created")
        };
        for namespace in ["a", "b", "a"] {
            created.add(namespace);
        }
        assert_eq!(told(), [("namespace=a".to_owned(), 2.0), ("namespace=b".to_owned(), 1.0)]);
        for number in 2..MOST_NAMESPACES {
            created.add(&format!("n{number}"));
        }
        created.add("a");
        assert_eq!((told().len(), told()[0].1), (MOST_NAMESPACES, 3.0));
        created.add("one more");
        assert_eq!(told(), [("namespace=one more".to_owned(), 1.0)]);
    }
}
