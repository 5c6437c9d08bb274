//! Objects without what says who owns which field: that is half of a Pod in memory, and who watches does not ask.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Reads an object but for its `metadata.managedFields`.
///
/// # Errors
/// When it is no object, and those of `deserializer`.
pub fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Reader::Object.deserialize(deserializer)
}

/// Reads an object but for `metadata.managedFields`, which is skipped: building it only to drop it takes as long as the
/// rest.
#[derive(Clone, Copy)]
enum Reader {
    Object,
    Metadata,
}

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = match (self, key.as_str()) {
                (Self::Object, "metadata") => map.next_value_seed(Self::Metadata)?,
                (Self::Metadata, "managedFields") => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => map.next_value()?,
            };
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_ownership_of_an_object_is_skipped_and_what_has_its_name_elsewhere_is_not() {
        let mut value = json!({
            "metadata": {"name": "a", "managedFields": [{"manager": "m"}], "labels": {"managedFields": "l"}},
            "spec": {"managedFields": [1]},
        });
        let read = object(&value).unwrap();
        value["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
        assert_eq!(read, value);
        assert!(object(&json!([1])).unwrap_err().to_string().contains("expected an object"));
        assert!(object(&json!({"metadata": 1})).is_err());
    }
}
