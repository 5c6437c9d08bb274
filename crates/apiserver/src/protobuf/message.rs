//! Messages into JSON objects.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{Field, Message, Plurality, Shape, Table};
use super::wire::{Wire, WireError, fields, packed};
use crate::decode;
use crate::object::{format_micro_time, format_time};

/// The deepest nesting of messages; Kubernetes' kinds need less than half of it.
const MAX_DEPTH: usize = 32;

/// The most values (messages, list items, map entries, scalars) in a body: four bytes of it may cost hundreds here.
const MAX_VALUES: usize = 250_000;

/// Decodes one body.
pub(super) struct Decoder<'a> {
    table: &'a Table,
    values_left: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(table: &'a Table) -> Self {
        Self { table, values_left: MAX_VALUES }
    }

    /// Puts the fields of a message into `object`, over what is there: protobuf lets a message come in pieces.
    pub(super) fn object(
        &mut self,
        message: &Message,
        bytes: &[u8],
        object: &mut Map<String, Value>,
    ) -> Result<(), WireError> {
        self.message(message, bytes, object, MAX_DEPTH)
    }

    fn message(
        &mut self,
        message: &Message,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        depth_left: usize,
    ) -> Result<(), WireError> {
        let depth_left = depth_left.checked_sub(1).ok_or(WireError::TooLarge)?;
        for found in fields(bytes) {
            let (number, wire) = found?;
            if let Some(field) = message.field(number) {
                self.field(field, wire, object, depth_left)?;
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: Wire<'_>,
        object: &mut Map<String, Value>,
        depth_left: usize,
    ) -> Result<(), WireError> {
        let name = field.name;
        match (field.plurality, field.shape) {
            (Plurality::Inline, Shape::Message(number)) => {
                if let Some(message) = self.table.message(number) {
                    self.message(message, wire.bytes(name)?, object, depth_left)?;
                }
            }
            (Plurality::List, shape) => {
                let Some(list) =
                    object.entry(name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
                else {
                    return Ok(());
                };
                if let (Shape::Int32 | Shape::Int64 | Shape::Bool, Wire::Bytes(bytes)) = (shape, wire) {
                    for number in packed(bytes) {
                        list.extend(self.value(field, Wire::Varint(number?), depth_left)?);
                    }
                } else {
                    list.extend(self.value(field, wire, depth_left)?);
                }
            }
            (Plurality::Map, _) => {
                let (key, value) = self.entry(field, wire.bytes(name)?, depth_left)?;
                let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
            }
            (_, Shape::Message(number)) => {
                let bytes = wire.bytes(name)?;
                self.count()?;
                let inner = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let (Some(message), Some(inner)) = (self.table.message(number), inner.as_object_mut()) {
                    self.message(message, bytes, inner, depth_left)?;
                }
            }
            (plurality, _) => match self.value(field, wire, depth_left)? {
                Some(value) if plurality == Plurality::OneOrZero || !is_zero(&value, field.shape) => {
                    object.insert(name.to_owned(), value);
                }
                _ => {
                    object.shift_remove(name);
                }
            },
        }
        Ok(())
    }

    /// One entry of a map; what is not there is zero, as in Go.
    fn entry(
        &mut self,
        field: &Field,
        bytes: &[u8],
        depth_left: usize,
    ) -> Result<(String, Value), WireError> {
        let mut key = String::new();
        let mut value = None;
        for found in fields(bytes) {
            match found? {
                (1, wire) => key = wire.text(field.name)?,
                (2, wire) => value = self.value(field, wire, depth_left)?,
                _ => {}
            }
        }
        let value = value.unwrap_or_else(|| match field.shape {
            Shape::String | Shape::Bytes => Value::String(String::new()),
            Shape::Quantity => "0".into(),
            Shape::Strings => Value::Array(Vec::new()),
            _ => Value::Null,
        });
        Ok((key, value))
    }

    /// One value of a field; nothing where JSON has `null`.
    fn value(
        &mut self,
        field: &Field,
        wire: Wire<'_>,
        depth_left: usize,
    ) -> Result<Option<Value>, WireError> {
        self.count()?;
        let name = field.name;
        let value = match field.shape {
            Shape::String => wire.text(name)?.into(),
            Shape::Bytes => STANDARD.encode(wire.bytes(name)?).into(),
            Shape::Bool => (wire.varint(name)? != 0).into(),
            Shape::Int32 => int32(wire.varint(name)?).into(),
            Shape::Int64 => wire.int64(name)?.into(),
            Shape::Strings => {
                let mut list = Vec::new();
                for found in fields(wire.bytes(name)?) {
                    if let (1, item) = found? {
                        self.count()?;
                        list.push(item.text(name)?.into());
                    }
                }
                Value::Array(list)
            }
            Shape::Time => return time(name, wire.bytes(name)?, false),
            Shape::MicroTime => return time(name, wire.bytes(name)?, true),
            Shape::Json => return json(name, wire.bytes(name)?),
            Shape::Quantity => {
                let mut text = String::new();
                for found in fields(wire.bytes(name)?) {
                    if let (1, wire) = found? {
                        text = wire.text(name)?;
                    }
                }
                if text.is_empty() { "0".into() } else { text.into() }
            }
            Shape::IntOrString => int_or_string(name, wire.bytes(name)?)?,
            Shape::Message(number) => {
                let mut inner = Map::new();
                if let Some(message) = self.table.message(number) {
                    self.message(message, wire.bytes(name)?, &mut inner, depth_left)?;
                }
                Value::Object(inner)
            }
        };
        Ok(Some(value))
    }

    fn count(&mut self) -> Result<(), WireError> {
        self.values_left = self.values_left.checked_sub(1).ok_or(WireError::TooLarge)?;
        Ok(())
    }
}

/// Whether Go leaves the value out of JSON.
fn is_zero(value: &Value, shape: Shape) -> bool {
    match shape {
        Shape::Quantity => false,
        // A struct in Go, which is never left out; but nobody means anything by port 0 or "".
        _ => match value {
            Value::String(text) => text.is_empty(),
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_i64() == Some(0),
            _ => false,
        },
    }
}

/// What Go makes of a varint that is an `int32`: its low half.
fn int32(number: u64) -> i32 {
    ((number & 0xffff_ffff) as u32).cast_signed()
}

fn int_or_string(name: &str, bytes: &[u8]) -> Result<Value, WireError> {
    let mut is_text = false;
    let mut number = 0;
    let mut text = String::new();
    for found in fields(bytes) {
        match found? {
            (1, wire) => is_text = wire.varint(name)? == 1,
            (2, wire) => number = int32(wire.varint(name)?),
            (3, wire) => text = wire.text(name)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// `metav1.Time`: an empty message is no time.
fn time(name: &str, bytes: &[u8], with_micros: bool) -> Result<Option<Value>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut seconds = 0;
    let mut nanos = 0;
    for found in fields(bytes) {
        match found? {
            (1, wire) => seconds = wire.int64(name)?,
            (2, wire) => nanos = int32(wire.varint(name)?),
            _ => {}
        }
    }
    // Go's JSON has whole seconds here, so the rest was never there.
    let at = Timestamp::new(seconds, if with_micros { nanos } else { 0 })
        .map_err(|error| WireError::Value { field: name.to_owned(), reason: error.to_string() })?;
    let text = if with_micros { format_micro_time(at) } else { format_time(at) };
    Ok(Some(text.into()))
}

/// JSON in the only field of a message.
fn json(name: &str, bytes: &[u8]) -> Result<Option<Value>, WireError> {
    let mut raw: &[u8] = &[];
    for found in fields(bytes) {
        if let (1, wire) = found? {
            raw = wire.bytes(name)?;
        }
    }
    if raw.is_empty() {
        return Ok(None);
    }
    match decode::json_value(raw) {
        Ok(decoded) => Ok(Some(decoded.value)),
        Err(error) => Err(WireError::Value { field: name.to_owned(), reason: error.to_string() }),
    }
}
