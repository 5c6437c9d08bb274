//! Any format's values into JSON values, with a count of what they cost and an eye for keys that occur twice.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use crate::schema::path::Path;

/// How many duplicates are named.
const MOST_DUPLICATES: usize = 100;

/// Floats up to here are exact whole numbers if they have no fraction.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What is shared by all levels of one read.
pub(super) struct Reader {
    depth: usize,
    values: Cell<usize>,
    text: Cell<usize>,
    duplicates: RefCell<Vec<String>>,
}

impl Reader {
    /// A reader that takes so many levels, values and bytes of text.
    pub(super) fn new(depth: usize, values: usize, text: usize) -> Self {
        Self { depth, values: Cell::new(values), text: Cell::new(text), duplicates: RefCell::new(Vec::new()) }
    }

    /// The paths of keys that occurred twice.
    pub(super) fn into_duplicates(self) -> Vec<String> {
        self.duplicates.into_inner()
    }

    fn spend<E: Error>(&self, values: usize, text: usize) -> Result<(), E> {
        match (self.values.get().checked_sub(values), self.text.get().checked_sub(text)) {
            (Some(values), Some(text)) => {
                self.values.set(values);
                self.text.set(text);
                Ok(())
            }
            _ => Err(E::custom("too many values")),
        }
    }

    fn note_duplicate(&self, path: &Path<'_>) {
        let mut duplicates = self.duplicates.borrow_mut();
        if duplicates.len() < MOST_DUPLICATES {
            let path = path.text();
            if !duplicates.contains(&path) {
                duplicates.push(path);
            }
        }
    }
}

/// Reads one value at a place.
pub(super) struct Seed<'a> {
    pub(super) reader: &'a Reader,
    pub(super) path: &'a Path<'a>,
    /// How many objects and lists are around the value.
    pub(super) depth: usize,
}

impl Seed<'_> {
    fn down<E: Error>(&self) -> Result<usize, E> {
        if self.depth >= self.reader.depth {
            return Err(E::custom(format_args!("exceeded max depth of {}", self.reader.depth)));
        }
        self.reader.spend(1, 0)?;
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any valid JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.reader.spend(1, 0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.reader.spend(1, 0)?;
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.reader.spend(1, 0)?;
        Ok(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        match (i64::try_from(value), u64::try_from(value)) {
            (Ok(value), _) => self.visit_i64(value),
            (_, Ok(value)) => self.visit_u64(value),
            _ => self.visit_f64(value as f64),
        }
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.reader.spend(1, 0)?;
        if value.fract() == 0.0 && value.abs() <= EXACT {
            return Ok((value as i64).into());
        }
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format_args!("json: unsupported value: {value}")))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.reader.spend(1, value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.reader.spend(1, value.len())?;
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.reader.spend(1, 0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let depth = self.down()?;
        let mut list = Vec::new();
        loop {
            let path = self.path.index(list.len());
            match access.next_element_seed(Seed { reader: self.reader, path: &path, depth })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let depth = self.down()?;
        let mut object = Map::new();
        while let Some(key) = access.next_key_seed(Key)? {
            self.reader.spend(0, key.len())?;
            let path = self.path.field(&key);
            let value = access.next_value_seed(Seed { reader: self.reader, path: &path, depth })?;
            match object.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(mut entry) => {
                    self.reader.note_duplicate(&self.path.field(entry.key()));
                    entry.insert(value);
                }
            }
        }
        Ok(Value::Object(object))
    }
}

/// Reads a key, which is text in JSON and may be any scalar in YAML.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        Ok(key.to_owned())
    }

    fn visit_string<E: Error>(self, key: String) -> Result<String, E> {
        Ok(key)
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_unit<E: Error>(self) -> Result<String, E> {
        Ok("null".to_owned())
    }
}
