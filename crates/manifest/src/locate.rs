//! Where in a manifest's text a field stands, for messages.
//!
//! The typed objects know nothing of lines, and most manifests have no faults; so the text is gone through again, and
//! only when there is something to point at. A field that is not there is located at the innermost object around it
//! that is. Fields that arrive through a YAML merge key (`<<`) are not followed to their anchor.

use std::fmt;

use serde_json::Value;
use serde_saphyr::granit_parser::{Event, Parser, Span};

use crate::value::{RawDocument, read_documents};

/// Most fields located at once; further ones go without a line.
const MAX_LOCATED: usize = 100;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

/// Locates `fields` of the first object of this kind and name in `text`, in their order.
///
/// A field is a path with list indexes, such as `spec.domain.devices.disks[0].name`. Where the object is not found, or
/// the text is a stream of several JSON objects, there are no locations.
pub fn locate(text: &str, kind: &str, name: &str, fields: &[&str]) -> Vec<Option<Location>> {
    let Ok(documents) = read_documents(text) else {
        return vec![None; fields.len()];
    };
    for document in &documents {
        if let Some(prefix) = find_object(&document.value, kind, name, None) {
            return locate_in(document, &prefix, fields);
        }
    }
    vec![None; fields.len()]
}

/// The path of the object of this kind and name, which may lie in a list.
fn find_object(value: &Value, kind: &str, name: &str, assumed_kind: Option<&str>) -> Option<String> {
    let own_kind = value.get("kind").and_then(Value::as_str).or(assumed_kind)?;
    if let (Some(element_kind), Some(Value::Array(items))) =
        (own_kind.strip_suffix("List"), value.get("items"))
    {
        return items.iter().enumerate().find_map(|(index, item)| {
            let inner = find_object(item, kind, name, Some(element_kind))?;
            Some(join(&format!("items[{index}]"), &inner))
        });
    }
    let own_name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    (own_kind == kind && own_name == name).then(String::new)
}

/// Appends a path to a path.
pub(crate) fn join(prefix: &str, path: &str) -> String {
    match (prefix.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => prefix.to_owned(),
        _ => format!("{prefix}.{path}"),
    }
}

/// Locates `fields` below `prefix` in the text of a document.
pub(crate) fn locate_in(document: &RawDocument<'_>, prefix: &str, fields: &[&str]) -> Vec<Option<Location>> {
    let wanted: Vec<String> = fields.iter().take(MAX_LOCATED).map(|field| join(prefix, field)).collect();
    let mut search =
        Search { found: vec![None; fields.len()], wanted, path: String::new(), frames: Vec::new() };
    if let Some(text) = document.text {
        search.run(text);
    }
    let found = search.found.into_iter();
    found
        .map(|found| {
            found.map(|(_, location)| Location {
                line: location.line + document.lines_before,
                column: location.column,
            })
        })
        .collect()
}

/// An open list or object, and the length of its path.
enum Frame {
    List { path_length: usize, next_index: usize },
    Object { path_length: usize, has_key: bool },
}

struct Search {
    wanted: Vec<String>,
    /// For each wanted path the longest part of it seen so far, by length, and where that was.
    found: Vec<Option<(usize, Location)>>,
    path: String,
    frames: Vec<Frame>,
}

impl Search {
    fn run(&mut self, text: &str) {
        for event in Parser::new_from_str(text) {
            // The text has been read before, and well; if this reader disagrees, what is found so far stands.
            let Ok((event, span)) = event else {
                return;
            };
            match event {
                Event::Scalar(text, ..) => self.scalar(&text, span),
                Event::Alias(..) => {
                    self.begin(span);
                    self.end();
                }
                Event::SequenceStart(..) => {
                    self.begin(span);
                    self.frames.push(Frame::List { path_length: self.path.len(), next_index: 0 });
                }
                Event::MappingStart(..) => {
                    self.begin(span);
                    self.frames.push(Frame::Object { path_length: self.path.len(), has_key: false });
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    self.frames.pop();
                    self.end();
                }
                _ => {}
            }
        }
    }

    /// Takes a scalar as the next key, if a key is due, else as a value.
    fn scalar(&mut self, text: &str, span: Span) {
        match self.frames.last_mut() {
            Some(Frame::Object { path_length, has_key }) if !*has_key => {
                *has_key = true;
                self.path.truncate(*path_length);
                if !self.path.is_empty() {
                    self.path.push('.');
                }
                self.path.push_str(text);
                self.record(span);
            }
            _ => {
                self.begin(span);
                self.end();
            }
        }
    }

    /// A value begins. The value of a field has been recorded with its key.
    fn begin(&mut self, span: Span) {
        match self.frames.last_mut() {
            None => self.record(span),
            Some(Frame::Object { .. }) => {}
            Some(Frame::List { path_length, next_index }) => {
                self.path.truncate(*path_length);
                self.path.push_str(&format!("[{next_index}]"));
                *next_index += 1;
                self.record(span);
            }
        }
    }

    /// A value has ended.
    fn end(&mut self) {
        match self.frames.last_mut() {
            None => self.path.clear(),
            Some(Frame::Object { path_length, has_key }) => {
                *has_key = false;
                self.path.truncate(*path_length);
            }
            Some(Frame::List { path_length, .. }) => self.path.truncate(*path_length),
        }
    }

    fn record(&mut self, span: Span) {
        let location = Location { line: span.start.line() as u64, column: span.start.col() as u64 + 1 };
        for (wanted, found) in self.wanted.iter().zip(&mut self.found) {
            let Some(rest) = wanted.strip_prefix(self.path.as_str()) else {
                continue;
            };
            let is_whole_step = self.path.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']);
            if is_whole_step && found.is_none_or(|(length, _)| length < self.path.len()) {
                *found = Some((self.path.len(), location));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, kind: &str, name: &str, fields: &[&str]) -> Vec<Option<(u64, u64)>> {
        let found = locate(text, kind, name, fields).into_iter();
        found.map(|found| found.map(|location| (location.line, location.column))).collect()
    }

    const TEXT: &str = "\
# two objects
kind: A
metadata:
  name: one
---
kind: List
items:
- kind: B
  metadata: {name: two, labels: {a.b/c: x}}
  spec:
    disks:
    - name: p
    - name: q
      size: &size [1,
        2]
    - size: *size
  status: yes
";

    #[test]
    fn fields_are_found_in_the_right_object() {
        assert_eq!(
            lines(TEXT, "A", "one", &["metadata.name", "spec.x", ""]),
            [Some((4, 3)), Some((2, 1)), Some((2, 1))]
        );
        assert_eq!(
            lines(
                TEXT,
                "B",
                "two",
                &[
                    "metadata.labels.a.b/c",
                    "spec.disks[1].size[1]",
                    "spec.disks[2].size[0]",
                    "spec.disks[1].bus",
                    "spec.disk",
                    "status"
                ]
            ),
            [Some((9, 34)), Some((15, 9)), Some((16, 7)), Some((13, 7)), Some((10, 3)), Some((17, 3))]
        );
        assert_eq!(lines(TEXT, "B", "three", &["spec"]), [None]);
    }

    #[test]
    fn json_is_located_too() {
        let text = "{\n\t\"kind\": \"A\",\n\t\"spec\": {\n\t\t\"x\": [1, {\"y\": 2}]\n\t}\n}";
        assert_eq!(lines(text, "A", "", &["spec.x[1].y"]), [Some((4, 13))]);
    }

    #[test]
    fn a_text_that_cannot_be_read_has_no_locations() {
        assert_eq!(lines("a: b: c", "A", "", &["x", "y"]), [None, None]);
    }
}
