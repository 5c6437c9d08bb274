//! Sets of fields, and their form in `managedFields[].fieldsV1`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::element::{Element, ElementError};

/// A set of paths: a trie. A path is in the set if its last element is among the `members` of the node that the others
/// lead to; being on the way to a member makes no member. No node below the root is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, Set>,
}

/// Why a `fieldsV1` cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum FieldsError {
    #[error("parsing key as path element: {0}")]
    Element(String),
    #[error("ReadMapCB: expect {{ or n, but found another value")]
    NotAnObject,
    #[error("exceeded max depth")]
    TooDeep,
}

/// How deep a `fieldsV1` may be. Objects on the wire are shallower; this bounds the stack for those made in memory.
const MAX_DEPTH: usize = 256;

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Adds `element` here: as a member, with what is below it, or both. Nothing of both adds nothing.
    pub(super) fn attach(&mut self, element: &Element, member: bool, below: Set) {
        if !below.is_empty() {
            self.absorb_below(element.clone(), below);
        }
        if member {
            self.members.insert(element.clone());
        }
    }

    /// Adds what is in `other`.
    pub(super) fn absorb(&mut self, other: Self) {
        self.members.extend(other.members);
        for (element, below) in other.children {
            self.absorb_below(element, below);
        }
    }

    fn absorb_below(&mut self, element: Element, below: Set) {
        match self.children.entry(element) {
            Entry::Vacant(entry) => {
                entry.insert(below);
            }
            Entry::Occupied(mut entry) => entry.get_mut().absorb(below),
        }
    }

    /// Takes out what is in `other`. Parents and children are different paths: removing one leaves the other.
    pub(super) fn remove_all(&mut self, other: &Self) {
        self.members.retain(|member| !other.members.contains(member));
        self.children.retain(|element, below| {
            if let Some(unwanted) = other.children.get(element) {
                below.remove_all(unwanted);
            }
            !below.is_empty()
        });
    }

    /// Adds one path. The empty path is the whole object, which nobody owns.
    pub(super) fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(&path.iter().map(|name| Element::field(*name)).collect::<Vec<_>>());
        }
        set
    }

    pub(super) fn has_member(&self, element: &Element) -> bool {
        self.members.contains(element)
    }

    pub(super) fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [first, rest @ ..] => self.children.get(first).is_some_and(|child| child.has(rest)),
        }
    }

    /// What is below `element`.
    pub(super) fn below(&self, element: &Element) -> Option<&Set> {
        self.children.get(element)
    }

    /// What is in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.absorb(other.clone());
        out
    }

    /// What is in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(element, ours)| {
            let both = ours.intersection(other.children.get(element)?);
            (!both.is_empty()).then(|| (element.clone(), both))
        });
        Self {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: children.collect(),
        }
    }

    /// What is here and not in the other.
    pub(super) fn difference(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.remove_all(other);
        out
    }

    /// The same members, and of each child what `change` makes of it; it may make members, too.
    pub(super) fn map_children(&self, mut change: impl FnMut(&Element, &Set) -> (bool, Set)) -> Self {
        let mut out = Self { members: self.members.clone(), children: BTreeMap::new() };
        for (element, child) in &self.children {
            let (member, below) = change(element, child);
            out.attach(element, member, below);
        }
        out
    }

    /// Every path, the members of a node before those of its children.
    pub(super) fn paths(&self) -> Vec<Vec<Element>> {
        fn walk(set: &Set, prefix: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
            for member in &set.members {
                let mut path = prefix.clone();
                path.push(member.clone());
                out.push(path);
            }
            for (element, child) in &set.children {
                prefix.push(element.clone());
                walk(child, prefix, out);
                prefix.pop();
            }
        }
        let mut out = Vec::new();
        walk(self, &mut Vec::new(), &mut out);
        out
    }

    /// The form in `fieldsV1`: elements as names in order; `.` stands for a node that is a member and has children.
    pub(super) fn encode(&self) -> Value {
        let mut out = Map::new();
        let mut elements: BTreeSet<&Element> = self.members.iter().collect();
        elements.extend(self.children.keys());
        for element in elements {
            let below = match self.children.get(element) {
                None => json!({}),
                Some(child) => {
                    let mut below = child.encode();
                    if let (true, Value::Object(fields)) = (self.members.contains(element), &mut below) {
                        let others = std::mem::take(fields);
                        fields.insert(".".to_owned(), json!({}));
                        fields.extend(others);
                    }
                    below
                }
            };
            out.insert(element.encode(), below);
        }
        Value::Object(out)
    }

    /// Reads a `fieldsV1`.
    pub(super) fn decode(fields: &Value) -> Result<Self, FieldsError> {
        Ok(decode_node(fields, 0)?.1)
    }
}

/// Whether the node is a member itself, and what is below it.
fn decode_node(fields: &Value, depth: usize) -> Result<(bool, Set), FieldsError> {
    let fields = match fields {
        Value::Object(fields) => fields,
        Value::Null => return Ok((true, Set::default())),
        _ => return Err(FieldsError::NotAnObject),
    };
    if depth > MAX_DEPTH {
        return Err(FieldsError::TooDeep);
    }
    let mut member = false;
    let mut set = Set::default();
    for (name, below) in fields {
        if name == "." {
            member = true;
            continue;
        }
        let element = match Element::parse(name) {
            Ok(element) => element,
            Err(ElementError::Unknown) => continue,
            Err(error) => return Err(FieldsError::Element(error.to_string())),
        };
        let (child_member, child) = decode_node(below, depth + 1)?;
        set.attach(&element, child_member, child);
    }
    Ok((member || set.is_empty(), set))
}
