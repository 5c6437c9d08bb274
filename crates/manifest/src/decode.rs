//! A manifest's text to typed objects.
//!
//! A stream may hold several YAML documents or JSON objects, and lists of objects (`kind: List`). Machines are checked
//! field by field and every fault of the whole stream is reported at once; Secrets are decoded for those who pull
//! images; objects of any other kind are passed over with their name.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::locate::{join, locate_in};
use crate::schema::{Checked, Described, Fault, check, even_out, json_type};
use crate::secret::{Secret, WrittenSecret};
use crate::types::{VirtualMachine, VirtualMachineInstance};
use crate::value::{RawDocument, read_documents};

/// Longest text that is read, in bytes: what a Kubernetes API server takes as one request.
pub const MAX_INPUT_BYTES: usize = 3 << 20;

/// The API group of machines.
const GROUP: &str = "kubevirt.io/";

/// API versions of machines; their content is the same.
const API_VERSIONS: [&str; 2] = ["kubevirt.io/v1", "kubevirt.io/v1alpha3"];

/// An object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// A machine that outlives its runs.
    VirtualMachine(Box<VirtualMachine>),
    /// One run of a machine.
    VirtualMachineInstance(Box<VirtualMachineInstance>),
    /// A Secret.
    Secret(Secret),
    /// An object that this crate does not read.
    Other {
        /// Its API version.
        api_version: String,
        /// Its kind.
        kind: String,
        /// Its name, empty where it has none.
        name: String,
    },
}

impl Document {
    /// Name of the object, empty where it has none.
    pub fn name(&self) -> &str {
        match self {
            Self::VirtualMachine(machine) => machine.metadata.name.as_deref().unwrap_or_default(),
            Self::VirtualMachineInstance(instance) => instance.metadata.name.as_deref().unwrap_or_default(),
            Self::Secret(secret) => &secret.name,
            Self::Other { name, .. } => name,
        }
    }

    /// Kind of the object.
    pub fn kind(&self) -> &str {
        match self {
            Self::VirtualMachine(_) => "VirtualMachine",
            Self::VirtualMachineInstance(_) => "VirtualMachineInstance",
            Self::Secret(_) => "Secret",
            Self::Other { kind, .. } => kind,
        }
    }
}

/// Why a manifest could not be read. None of these passes by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text is too long to be a manifest.
    #[error(
        "could not read manifest `{source_name}`: {length_bytes} bytes are more than the {MAX_INPUT_BYTES} allowed"
    )]
    TooLong {
        /// Where the text came from.
        source_name: String,
        /// Its length in bytes.
        length_bytes: usize,
    },
    /// The text is neither YAML nor JSON.
    #[error("could not read manifest `{source_name}`: line {line}, column {column}: {message}")]
    Syntax {
        /// Where the text came from.
        source_name: String,
        /// Line of the fault, from 1.
        line: u64,
        /// Column of the fault in characters, from 1.
        column: u64,
        /// What is wrong.
        message: String,
        /// The line itself, cut to a readable length; empty where the text holds Secrets, which nobody wants in a log.
        excerpt: String,
    },
    /// Objects whose shape is wrong.
    #[error("could not read manifest `{source_name}`: {}", Listing(.objects))]
    Invalid {
        /// Where the text came from.
        source_name: String,
        /// The objects, in the order of the text.
        objects: Vec<InvalidObject>,
    },
}

impl DecodeError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooLong { .. } => {
                Some("a manifest describes machines; their disks and kernels go into images".to_owned())
            }
            Self::Syntax { excerpt, .. } if excerpt.is_empty() => None,
            Self::Syntax { line, column, excerpt, .. } => {
                let marker = format!("{}^", " ".repeat((*column as usize).saturating_sub(1)));
                Some(format!("line {line} reads:\n{excerpt}\n{marker}"))
            }
            Self::Invalid { objects, .. } => objects.iter().find_map(InvalidObject::hint),
        }
    }
}

/// An object whose shape is wrong, with everything that is wrong about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidObject {
    /// Place of its document in the stream, from 1; empty documents do not count.
    pub document: usize,
    /// Its kind, empty where it has none.
    pub kind: String,
    /// Its name, empty where it has none.
    pub name: String,
    /// What is wrong, one entry for each fault.
    pub faults: Vec<Fault>,
}

impl InvalidObject {
    /// A hint for the fault that is a known slip, if there is one.
    fn hint(&self) -> Option<String> {
        self.faults.iter().find_map(|fault| {
            if fault.message.starts_with("no matches for kind") {
                return Some(format!("use `apiVersion: {}`", API_VERSIONS[0]));
            }
            let slips = [
                (".readOnly in body is a forbidden", "the field is spelled `readonly` in disks"),
                (".userDataSecretRef in body is a forbidden", "the field is called `secretRef`"),
                (
                    ".networkInterfaceMultiQueue in body is a forbidden",
                    "the field is spelled `networkInterfaceMultiqueue`",
                ),
                (
                    ".dedicatedCPUPlacement in body is a forbidden",
                    "the field is spelled `dedicatedCpuPlacement`",
                ),
                (
                    ".template.metadata.spec in body is a forbidden",
                    "`spec` stands beside `metadata`, not below it: check the indentation",
                ),
            ];
            slips
                .iter()
                .find(|(pattern, _)| fault.message.contains(pattern))
                .map(|(_, hint)| (*hint).to_owned())
        })
    }
}

impl fmt::Display for InvalidObject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind.is_empty(), self.name.is_empty()) {
            (true, _) => write!(formatter, "document {}", self.document)?,
            (false, true) => write!(formatter, "{} in document {}", self.kind, self.document)?,
            (false, false) => write!(formatter, "{} `{}`", self.kind, self.name)?,
        }
        for (index, fault) in self.faults.iter().enumerate() {
            write!(formatter, "{}{fault}", if index == 0 { ": " } else { ", " })?;
        }
        Ok(())
    }
}

/// Prints objects one after the other.
struct Listing<'a>(&'a [InvalidObject]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, object) in self.0.iter().enumerate() {
            write!(formatter, "{}{object}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Reads every object of `text`, which came from `source_name` (a path, or `-`); the name appears in errors only.
///
/// The objects come in the order of the text, those of a list in the place of the list. A text without objects gives
/// none.
///
/// # Errors
///
/// The first fault of syntax, with line and column; else all faults of shape of all objects.
pub fn decode_stream(source_name: &str, text: &str) -> Result<Vec<Document>, DecodeError> {
    let documents = raw_documents(source_name, text)?;
    let mut reading = Reading::default();
    for (index, mut document) in documents.into_iter().enumerate() {
        reading.document = index + 1;
        let value = document.value.take();
        let already_refused = reading.invalid.len();
        reading.value(value, "", None);
        for (object, prefix) in &mut reading.invalid[already_refused..] {
            point(&document, prefix, object);
        }
    }
    if reading.invalid.is_empty() {
        Ok(reading.documents)
    } else {
        Err(DecodeError::Invalid {
            source_name: source_name.to_owned(),
            objects: reading.invalid.into_iter().map(|(object, _)| object).collect(),
        })
    }
}

/// Reads every object of `text` as it is written, whatever its kind: for a server that judges it. Lists and errors are
/// as with [`decode_stream`]; each object has an `apiVersion` and a `kind`.
///
/// # Errors
///
/// The first fault of syntax; else every object that does not say what it is.
pub fn decode_objects(source_name: &str, text: &str) -> Result<Vec<Value>, DecodeError> {
    let mut reading = Reading { as_written: true, ..Reading::default() };
    for (index, document) in raw_documents(source_name, text)?.into_iter().enumerate() {
        reading.document = index + 1;
        reading.value(document.value, "", None);
    }
    if reading.invalid.is_empty() {
        return Ok(reading.objects);
    }
    let objects = reading.invalid.into_iter().map(|(object, _)| object).collect();
    Err(DecodeError::Invalid { source_name: source_name.to_owned(), objects })
}

/// Writes a value as YAML.
///
/// # Errors
///
/// When the value nests too deep to be written.
pub fn encode_yaml(value: &Value) -> Result<String, EncodeError> {
    serde_saphyr::to_string(value).map_err(|error| EncodeError(error.to_string()))
}

/// Why a value cannot be written as YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EncodeError(String);

fn raw_documents<'a>(source_name: &str, text: &'a str) -> Result<Vec<RawDocument<'a>>, DecodeError> {
    if text.len() > MAX_INPUT_BYTES {
        return Err(DecodeError::TooLong { source_name: source_name.to_owned(), length_bytes: text.len() });
    }
    read_documents(text).map_err(|fault| DecodeError::Syntax {
        source_name: source_name.to_owned(),
        excerpt: excerpt(text, fault.line),
        line: fault.line,
        column: fault.column,
        message: fault.message,
    })
}

/// Notes where the faults of an object at `prefix` of the document are.
fn point(document: &RawDocument<'_>, prefix: &str, object: &mut InvalidObject) {
    let places: Vec<&str> = object.faults.iter().map(|fault| fault.place.as_str()).collect();
    let locations = locate_in(document, prefix, &places);
    for (fault, location) in object.faults.iter_mut().zip(locations) {
        fault.location = location;
    }
}

/// One line of the text, cut to 200 characters and made printable; nothing of a text that holds Secrets.
fn excerpt(text: &str, line: u64) -> String {
    if text.contains("kind: Secret") || text.contains("\"Secret\"") {
        return String::new();
    }
    let index = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = text.lines().nth(index).unwrap_or_default();
    line.chars().take(200).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// What an object says it is.
#[derive(Clone)]
struct Identity {
    api_version: String,
    kind: String,
}

#[derive(Default)]
struct Reading {
    document: usize,
    documents: Vec<Document>,
    /// Whether objects are taken as they are written.
    as_written: bool,
    /// The objects, where they are.
    objects: Vec<Value>,
    /// The objects refused, each with its path in the document.
    invalid: Vec<(InvalidObject, String)>,
}

impl Reading {
    /// Reads one object or list. The elements of a typed list (`VirtualMachineList`) may leave out what the list says
    /// they are; `assumed` is that.
    fn value(&mut self, value: Value, prefix: &str, assumed: Option<&Identity>) {
        let Value::Object(mut map) = value else {
            let message = format!("the document must be of type object: \"{}\"", json_type(&value));
            self.refuse(prefix, "", "", vec![fault("", message)]);
            return;
        };
        let identity = match self.identity(&map, assumed) {
            Ok(identity) => identity,
            Err(faults) => {
                let kind = text_at(&map, "kind").unwrap_or_default().to_owned();
                self.refuse(prefix, &kind, &name_of(&map), faults);
                return;
            }
        };
        if let Some(element_kind) = identity.kind.strip_suffix("List")
            && let Some(Value::Array(items)) = map.remove("items")
        {
            let element = (!element_kind.is_empty()).then(|| Identity {
                api_version: identity.api_version.clone(),
                kind: element_kind.to_owned(),
            });
            for (index, item) in items.into_iter().enumerate() {
                let prefix = join(prefix, &format!("items[{index}]"));
                self.value(item, &prefix, element.as_ref());
            }
            return;
        }
        self.object(identity, prefix, map);
    }

    fn identity(&self, map: &Map<String, Value>, assumed: Option<&Identity>) -> Result<Identity, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut read = |field: &str, assumed: Option<&String>| match (map.get(field), assumed) {
            (Some(Value::String(text)), _) if !text.is_empty() => text.clone(),
            (None | Some(Value::Null), Some(assumed)) => assumed.clone(),
            (None | Some(Value::Null | Value::String(_)), _) => {
                faults.push(fault(field, format!("{field} in body is required")));
                String::new()
            }
            (Some(other), _) => {
                let actual = json_type(other);
                faults.push(fault(field, format!("{field} in body must be of type string: \"{actual}\"")));
                String::new()
            }
        };
        let api_version = read("apiVersion", assumed.map(|identity| &identity.api_version));
        let kind = read("kind", assumed.map(|identity| &identity.kind));
        if faults.is_empty() { Ok(Identity { api_version, kind }) } else { Err(faults) }
    }

    fn object(&mut self, identity: Identity, prefix: &str, mut map: Map<String, Value>) {
        if self.as_written {
            map.insert("apiVersion".to_owned(), identity.api_version.into());
            map.insert("kind".to_owned(), identity.kind.into());
            self.objects.push(Value::Object(map));
            return;
        }
        let name = name_of(&map);
        let is_machine = matches!(identity.kind.as_str(), "VirtualMachine" | "VirtualMachineInstance");
        let Identity { api_version, kind } = identity;
        if is_machine && api_version.starts_with(GROUP) && !API_VERSIONS.contains(&api_version.as_str()) {
            let message = format!("no matches for kind \"{kind}\" in version \"{api_version}\"");
            self.refuse(prefix, &kind, &name, vec![fault("apiVersion", message)]);
            return;
        }
        let value = Value::Object(map);
        let decoded = match (API_VERSIONS.contains(&api_version.as_str()), kind.as_str()) {
            (true, "VirtualMachine") => typed(&value).map(|mut machine: VirtualMachine| {
                machine.api_version = api_version;
                machine.kind.clone_from(&kind);
                Document::VirtualMachine(Box::new(machine))
            }),
            (true, "VirtualMachineInstance") => typed(&value).map(|mut instance: VirtualMachineInstance| {
                instance.api_version = api_version;
                instance.kind.clone_from(&kind);
                Document::VirtualMachineInstance(Box::new(instance))
            }),
            (false, "Secret") if api_version == "v1" => typed(&value)
                .and_then(|written: WrittenSecret| Secret::from_written(written))
                .map(Document::Secret),
            _ => Ok(Document::Other { api_version, kind: kind.clone(), name: name.clone() }),
        };
        match decoded {
            Ok(document) => self.documents.push(document),
            Err(faults) => self.refuse(prefix, &kind, &name, faults),
        }
    }

    fn refuse(&mut self, prefix: &str, kind: &str, name: &str, faults: Vec<Fault>) {
        let object =
            InvalidObject { document: self.document, kind: kind.to_owned(), name: name.to_owned(), faults };
        self.invalid.push((object, prefix.to_owned()));
    }
}

/// Reads one machine that is JSON already, such as an API server has in hand.
///
/// # Errors
///
/// Every fault of shape, without locations.
pub fn decode_vm(value: &Value) -> Result<VirtualMachine, Vec<Fault>> {
    decode_value(value)
}

/// [`decode_vm`] for an instance.
///
/// # Errors
///
/// As [`decode_vm`].
pub fn decode_vmi(value: &Value) -> Result<VirtualMachineInstance, Vec<Fault>> {
    decode_value(value)
}

fn decode_value<T: Described + DeserializeOwned>(value: &Value) -> Result<T, Vec<Fault>> {
    match value {
        Value::Object(_) => typed(value),
        other => Err(vec![fault("", format!("in body must be of type object: \"{}\"", json_type(other)))]),
    }
}

/// Checks an object against the schema of `T` and decodes it.
fn typed<T: Described + DeserializeOwned>(value: &Value) -> Result<T, Vec<Fault>> {
    let Checked { faults, is_uneven } = check(T::NODE, value);
    if !faults.is_empty() {
        return Err(faults);
    }
    let decoded = if is_uneven {
        let mut value = value.clone();
        even_out(T::NODE, &mut value);
        T::deserialize(&value)
    } else {
        T::deserialize(value)
    };
    // The check lets nothing through that serde refuses; should a table be wrong, its reader is told so.
    decoded.map_err(|error| vec![fault("", format!("in body could not be decoded: {error}"))])
}

fn fault(place: &str, message: String) -> Fault {
    Fault { place: place.to_owned(), message, location: None }
}

fn text_at<'a>(map: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    map.get(field).and_then(Value::as_str)
}

fn name_of(map: &Map<String, Value>) -> String {
    map.get("metadata")
        .and_then(|metadata| metadata.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}
