//! Objects without a database, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::Objects;
use crate::object;

/// Prefix, namespace and name.
type Key = (String, String, String);

/// Objects in memory; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<(u64, BTreeMap<Key, Value>)>>);

impl Memory {
    pub(crate) fn with(objects: impl IntoIterator<Item = Value>) -> Self {
        let memory = Self::default();
        for object in objects {
            memory.put(object);
        }
        memory
    }

    pub(crate) fn put(&self, object: Value) {
        let mut state = self.0.lock().unwrap();
        state.0 += 1;
        state.1.insert(key(&object), object);
    }

    pub(crate) fn remove(&self, object: &Value) {
        let mut state = self.0.lock().unwrap();
        state.0 += 1;
        state.1.remove(&key(object));
    }
}

fn key(object: &Value) -> Key {
    let group = object["apiVersion"].as_str().unwrap().split_once('/').map_or("core", |(group, _)| group);
    let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    let prefix = format!("/{group}/{plural}/");
    (prefix, object::namespace(object).to_owned(), object::name(object).to_owned())
}

impl Objects for Memory {
    fn last_changed(&self, _prefix: &str) -> u64 {
        self.0.lock().unwrap().0
    }

    fn get(&self, prefix: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (prefix.to_owned(), namespace.to_owned(), name.to_owned());
        self.0.lock().unwrap().1.get(&key).cloned()
    }

    fn list(&self, prefix: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        state.1.iter().filter(|(key, _)| key.0 == prefix).map(|(_, object)| object.clone()).collect()
    }
}
