//! The messages of Kubernetes' kinds, read from `messages.txt` when the first body in protobuf comes.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Every message that is known.
pub(super) static TABLE: LazyLock<Table> =
    LazyLock::new(|| Table::parse(include_str!("messages.txt")).unwrap_or_default());

/// Messages by number, and the numbers of those that are bodies.
#[derive(Debug, Default)]
pub(super) struct Table {
    kinds: HashMap<(&'static str, &'static str), usize>,
    messages: Vec<Message>,
}

/// One message: its fields in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Message {
    fields: Vec<Field>,
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    number: u32,
    /// Its name in JSON; `-` where the fields of the message lie in their parent.
    pub(super) name: &'static str,
    pub(super) plurality: Plurality,
    pub(super) shape: Shape,
}

/// How many values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plurality {
    /// One, which is left out where it is zero.
    One,
    /// One, which is shown even where it is zero.
    OneOrZero,
    /// A message whose fields lie in their parent.
    Inline,
    /// An array.
    List,
    /// An object with any keys.
    Map,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    String,
    /// Base64 in JSON.
    Bytes,
    Bool,
    Int32,
    Int64,
    /// A list that is a message of its own, for maps of lists.
    Strings,
    /// Whole seconds.
    Time,
    /// Microseconds.
    MicroTime,
    /// JSON in the message's only field.
    Json,
    Quantity,
    IntOrString,
    /// The number of a message.
    Message(usize),
}

impl Table {
    /// The message of a kind.
    pub(super) fn kind(&self, api_version: &str, kind: &str) -> Option<&Message> {
        // Options have the version of whatever they are for.
        let number = self.kinds.get(&(api_version, kind)).or_else(|| self.kinds.get(&("*", kind)))?;
        self.message(*number)
    }

    /// A message by its number.
    pub(super) fn message(&self, number: usize) -> Option<&Message> {
        self.messages.get(number)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// The first line that cannot be read, or the name of a message that is nowhere.
    pub(super) fn parse(text: &'static str) -> Result<Self, String> {
        let lines = || text.lines().map(|line| (line, line.split(' ').collect::<Vec<_>>()));
        let is_message = |words: &[&str]| words.len() == 1 && words[0].contains('.');
        let numbers: HashMap<_, _> = lines()
            .filter(|(_, words)| is_message(words))
            .enumerate()
            .map(|(number, (line, _))| (line, number))
            .collect();
        let of_name = |name: &str| numbers.get(name).copied().ok_or_else(|| format!("no message {name}"));
        let mut table = Self::default();
        for (line, words) in lines() {
            match *words.as_slice() {
                ["#", ..] => {}
                ["kind", api_version, kind, message] => {
                    table.kinds.insert((api_version, kind), of_name(message)?);
                }
                [_] if is_message(&words) => table.messages.push(Message::default()),
                [number, name, shape] => {
                    let number = number.parse().map_err(|error| format!("{line}: {error}"))?;
                    let (plurality, shape) = if let Some(shape) = shape.strip_prefix("list:") {
                        (Plurality::List, shape)
                    } else if let Some(shape) = shape.strip_prefix("map:") {
                        (Plurality::Map, shape)
                    } else if let Some(shape) = shape.strip_suffix('!') {
                        (Plurality::OneOrZero, shape)
                    } else if name == "-" {
                        (Plurality::Inline, shape)
                    } else {
                        (Plurality::One, shape)
                    };
                    let shape = match shape {
                        "string" => Shape::String,
                        "bytes" => Shape::Bytes,
                        "bool" => Shape::Bool,
                        "int32" => Shape::Int32,
                        "int64" => Shape::Int64,
                        "strings" => Shape::Strings,
                        "time" => Shape::Time,
                        "microtime" => Shape::MicroTime,
                        "json" => Shape::Json,
                        "quantity" => Shape::Quantity,
                        "intorstring" => Shape::IntOrString,
                        message => Shape::Message(of_name(message)?),
                    };
                    let message = table.messages.last_mut().ok_or_else(|| line.to_owned())?;
                    message.fields.push(Field { number, name, plurality, shape });
                }
                _ => return Err(line.to_owned()),
            }
        }
        for message in &mut table.messages {
            message.fields.sort_by_key(|field| field.number);
        }
        Ok(table)
    }

    /// Every kind: its `apiVersion` and `kind`.
    #[cfg(test)]
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.kinds.keys().copied()
    }
}

impl Message {
    /// A field by its number.
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        let place = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        self.fields.get(place)
    }

    /// Every field.
    #[cfg(test)]
    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }
}
