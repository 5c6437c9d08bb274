//! What an object may contain: one table for each type, and the walk that holds a document against it.
//!
//! KubeVirt checks an object's shape before its meaning, and reports every unknown, missing and ill-typed field at once.
//! serde cannot do that (it stops at the first fault and has no paths), so the types of this crate are declared with
//! the `object!` macro, which writes the struct and its table from one text. The walk ([`check`]) runs first; what it
//! lets through, serde decodes without fail.
//!
//! ```text
//! YAML or JSON ──► serde_json::Value ──► check(table) ──► serde ──► typed object
//!                                            └─► all faults, with paths
//! ```
//!
//! What serde could not take is evened out in a copy ([`even_out`]): a `null` field is removed (Kubernetes does the
//! same: null means unset), and a quantity given as a number becomes the text of that number. Most documents have
//! neither, and the walk says so ([`Checked::is_uneven`]), so that they are decoded as they are.
//!
//! Paths in messages carry no list indexes (`spec.domain.devices.disks.name`), because KubeVirt's do not; a [`Fault`]
//! therefore keeps the exact place beside the message.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::locate::Location;
use quantity::Quantity;

/// The shape of a value.
#[derive(Debug)]
pub(crate) enum Node {
    /// A string.
    Text,
    /// `true` or `false`.
    Boolean,
    /// A whole number within bounds, both included.
    Whole { minimum: i128, maximum: i128 },
    /// A Kubernetes quantity, as a string or a number.
    Quantity,
    /// A port: its number or its name.
    IntOrString,
    /// An instant in RFC 3339 form.
    Time,
    /// An object whose content is nobody's business.
    AnyObject,
    /// A list.
    List(&'static Node),
    /// An object with keys of the user's choice.
    Map(&'static Node),
    /// An object with these fields and no others.
    Object(&'static ObjectType),
}

/// A type of object.
#[derive(Debug)]
pub(crate) struct ObjectType {
    /// Its name, `VirtualMachineSpec`; no two types share one.
    pub(crate) name: &'static str,
    /// Its documentation, as rustdoc has it.
    pub(crate) documentation: &'static str,
    pub(crate) fields: &'static [Field],
}

impl ObjectType {
    /// The field of this name.
    fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// One field of an object.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) presence: Presence,
    pub(crate) node: &'static Node,
    /// Its documentation, as rustdoc has it; empty for the types that Kubernetes defines.
    pub(crate) documentation: &'static str,
}

/// Whether a field must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    Optional,
}

/// A type whose JSON form has a known shape.
pub(crate) trait Described {
    /// The shape.
    const NODE: &'static Node;
}

/// Whether a field is left out of the JSON form; only what can be unset ever is.
pub(crate) trait Absent {
    /// Whether there is nothing to write.
    fn is_absent(&self) -> bool {
        false
    }
}

macro_rules! scalar {
    ($($ty:ty => $node:expr;)*) => {
        $(
            impl Described for $ty {
                const NODE: &'static Node = &$node;
            }
            impl Absent for $ty {}
        )*
    };
}

scalar! {
    String => Node::Text;
    bool => Node::Boolean;
    i32 => Node::Whole { minimum: i32::MIN as i128, maximum: i32::MAX as i128 };
    i64 => Node::Whole { minimum: i64::MIN as i128, maximum: i64::MAX as i128 };
    u32 => Node::Whole { minimum: 0, maximum: u32::MAX as i128 };
    u64 => Node::Whole { minimum: 0, maximum: u64::MAX as i128 };
    Quantity => Node::Quantity;
    IntOrString => Node::IntOrString;
    Time => Node::Time;
}

impl<T: Described> Described for Option<T> {
    const NODE: &'static Node = T::NODE;
}

impl<T> Absent for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Described> Described for Vec<T> {
    const NODE: &'static Node = &Node::List(T::NODE);
}

impl<T> Absent for Vec<T> {
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Described> Described for BTreeMap<String, T> {
    const NODE: &'static Node = &Node::Map(T::NODE);
}

impl<T> Absent for BTreeMap<String, T> {
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

/// An object without fields, whose presence alone says something (`rng: {}`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

impl Described for Empty {
    const NODE: &'static Node = &Node::Object(&ObjectType { name: "Empty", documentation: "", fields: &[] });
}

impl Absent for Empty {}

macro_rules! presence {
    (required) => {
        $crate::schema::Presence::Required
    };
    (optional) => {
        $crate::schema::Presence::Optional
    };
}
pub(crate) use presence;

/// Declares a struct and its table at once. A field reads
/// `required|optional name ("jsonName"): Type,` under its documentation.
macro_rules! object {
    (
        $(#[doc = $documentation:literal])*
        pub struct $name:ident {
            $( $(#[doc = $field_documentation:literal])* $presence:ident $field:ident ($json:literal): $ty:ty, )*
        }
    ) => {
        $(#[doc = $documentation])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                $(#[doc = $field_documentation])*
                #[serde(rename = $json, skip_serializing_if = "crate::schema::Absent::is_absent")]
                pub $field: $ty,
            )*
        }

        impl $crate::schema::Described for $name {
            const NODE: &'static $crate::schema::Node =
                &$crate::schema::Node::Object(&$crate::schema::ObjectType {
                    name: stringify!($name),
                    documentation: concat!($($documentation, "\n",)*),
                    fields: &[
                        $( $crate::schema::Field {
                            name: $json,
                            presence: $crate::schema::presence!($presence),
                            node: <$ty as $crate::schema::Described>::NODE,
                            documentation: concat!($($field_documentation, "\n",)*),
                        }, )*
                    ],
                });
        }

        impl $crate::schema::Absent for $name {}
    };
}
pub(crate) use object;

/// A field that does not fit the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it is, with list indexes: `spec.template.spec.domain.devices.disks[1].cdrom.readOnly`.
    pub place: String,
    /// What is wrong, in the words of KubeVirt's schema check; its path leaves the list indexes out.
    pub message: String,
    /// Where that is in the text; a missing field is located at the object that should hold it.
    pub location: Option<Location>,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match (self.location, self.place.contains('[')) {
            (Some(location), true) => write!(formatter, " (line {}, at `{}`)", location.line, self.place),
            (Some(location), false) => write!(formatter, " (line {})", location.line),
            (None, true) => write!(formatter, " (at `{}`)", self.place),
            (None, false) => Ok(()),
        }
    }
}

/// What [`check`] found.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Every fault, in the order of the document.
    pub(crate) faults: Vec<Fault>,
    /// Whether serde takes the value only after [`even_out`].
    pub(crate) is_uneven: bool,
}

/// Holds `value` against `node`.
pub(crate) fn check(node: &'static Node, value: &Value) -> Checked {
    let mut walk = Walk::default();
    walk.value(node, value, &Path::Root);
    walk.0
}

/// Removes nulls and turns numeric quantities into text, in a value without faults.
pub(crate) fn even_out(node: &'static Node, value: &mut Value) {
    match (node, value) {
        (Node::Quantity, value) => {
            if let Value::Number(number) = value {
                *value = Value::String(number_text(number));
            }
        }
        (Node::List(element), Value::Array(values)) => {
            values.iter_mut().for_each(|value| even_out(element, value));
        }
        (Node::Map(element), Value::Object(map)) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(|value| even_out(element, value));
        }
        (Node::Object(object), Value::Object(map)) => {
            map.retain(|_, value| !value.is_null());
            for (name, value) in map.iter_mut() {
                if let Some(field) = object.field(name) {
                    even_out(field.node, value);
                }
            }
        }
        _ => {}
    }
}

/// The pattern that Kubernetes holds a quantity against.
pub(crate) const QUANTITY_PATTERN: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Most faults kept for one object; what comes after them is of no help any more.
const MAX_FAULTS: usize = 1000;

/// A place in a value. Each level lives on the stack of the walk over it, and text is made of it for faults alone.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// The path without indexes.
    fn names(&self) -> String {
        let mut names = Vec::new();
        let mut path = self;
        loop {
            path = match path {
                Self::Root => break,
                Self::Field(parent, name) => {
                    names.push(*name);
                    parent
                }
                Self::Index(parent, _) => parent,
            };
        }
        names.reverse();
        names.join(".")
    }

    /// The path with indexes.
    fn place(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Field(parent, name) => {
                let mut place = parent.place();
                if !place.is_empty() {
                    place.push('.');
                }
                place.push_str(name);
                place
            }
            Self::Index(parent, index) => format!("{}[{index}]", parent.place()),
        }
    }
}

#[derive(Default)]
struct Walk(Checked);

impl Walk {
    fn value(&mut self, node: &'static Node, value: &Value, path: &Path<'_>) {
        match (node, value) {
            (Node::Text, Value::String(_))
            | (Node::Boolean, Value::Bool(_))
            | (Node::AnyObject, Value::Object(_))
            | (Node::IntOrString, Value::String(_)) => {}
            (Node::Whole { minimum, maximum }, Value::Number(number)) => {
                self.whole(number, *minimum, *maximum, path);
            }
            (Node::IntOrString, Value::Number(number)) => {
                self.whole(number, i128::from(i32::MIN), i128::from(i32::MAX), path);
            }
            (Node::Quantity, Value::String(text)) => self.quantity(text, path),
            (Node::Quantity, Value::Number(number)) => {
                self.0.is_uneven = true;
                self.quantity(&number_text(number), path);
            }
            (Node::Time, Value::String(text)) => {
                if Time::deserialize(value).is_err() {
                    self.fault(path, &format!("must be of type date-time: \"{text}\""));
                }
            }
            (Node::List(element), Value::Array(values)) => {
                for (index, value) in values.iter().enumerate() {
                    self.value(element, value, &Path::Index(path, index));
                }
            }
            (Node::Map(element), Value::Object(map)) => {
                for (key, value) in self.set(map) {
                    self.value(element, value, &Path::Field(path, key));
                }
            }
            (Node::Object(object), Value::Object(map)) => self.object(object, map, path),
            (node, value) => {
                let expected = expected_type(node);
                let actual = json_type(value);
                self.fault(path, &format!("must be of type {expected}: \"{actual}\""));
            }
        }
    }

    /// The fields that are set: null means unset.
    fn set<'m>(
        &mut self,
        map: &'m Map<String, Value>,
    ) -> impl Iterator<Item = (&'m String, &'m Value)> + Clone + use<'m> {
        self.0.is_uneven |= map.values().any(Value::is_null);
        map.iter().filter(|(_, value)| !value.is_null())
    }

    fn object(&mut self, object: &'static ObjectType, map: &Map<String, Value>, path: &Path<'_>) {
        let set = self.set(map);
        for (name, _) in set.clone() {
            if object.field(name).is_none() {
                self.forbidden(path, name);
            }
        }
        for field in object.fields {
            if field.presence == Presence::Required && map.get(field.name).is_none_or(Value::is_null) {
                self.fault(&Path::Field(path, field.name), "is required");
            }
        }
        for (name, value) in set {
            if let Some(field) = object.field(name) {
                self.value(field.node, value, &Path::Field(path, name));
            }
        }
    }

    fn whole(&mut self, number: &Number, minimum: i128, maximum: i128, path: &Path<'_>) {
        let Some(whole) = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)) else {
            self.fault(path, "must be of type integer: \"number\"");
            return;
        };
        if whole < minimum {
            self.fault(path, &format!("should be greater than or equal to {minimum}"));
        } else if whole > maximum {
            self.fault(path, &format!("should be less than or equal to {maximum}"));
        }
    }

    fn quantity(&mut self, text: &str, path: &Path<'_>) {
        if text.parse::<Quantity>().is_err() {
            self.fault(path, &format!("should match '{QUANTITY_PATTERN}'"));
        }
    }

    /// An unknown field. At the root the name prints with a dot before it, as KubeVirt does.
    fn forbidden(&mut self, object: &Path<'_>, name: &str) {
        let dot = if matches!(object, Path::Root) { "." } else { "" };
        let path = Path::Field(object, name);
        self.push(&path, format!("{dot}{} in body is a forbidden property", path.names()));
    }

    fn fault(&mut self, path: &Path<'_>, text: &str) {
        self.push(path, format!("{} in body {text}", path.names()));
    }

    fn push(&mut self, path: &Path<'_>, message: String) {
        if self.0.faults.len() < MAX_FAULTS {
            self.0.faults.push(Fault { place: path.place(), message, location: None });
        }
    }
}

/// What the schema calls a shape.
fn expected_type(node: &Node) -> &'static str {
    match node {
        Node::Text | Node::Time => "string",
        Node::Boolean => "boolean",
        Node::Whole { .. } => "integer",
        Node::Quantity => "string,integer,number",
        Node::IntOrString => "integer,string",
        Node::List(_) => "array",
        Node::AnyObject | Node::Map(_) | Node::Object(_) => "object",
    }
}

/// What the schema calls a value.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A number as a quantity's text: without the `.0` that a whole floating-point number prints with.
fn number_text(number: &Number) -> String {
    let text = number.to_string();
    match text.strip_suffix(".0") {
        Some(whole) => whole.to_owned(),
        None => text,
    }
}
