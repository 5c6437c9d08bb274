//! A schema as field ownership sees it: what is one value, what is a map, what is a list of keyed items.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::element::Element;
use super::set::Set;
use crate::schema::{ListType, Schema, Shape, object_meta};

/// How deep fields are owned one by one; what is deeper is owned as a whole. Objects are far shallower in practice, and
/// `fieldsV1` nests as deep as the object, inside an object that must still be readable.
const MAX_DEPTH: usize = 64;

static ANY: LazyLock<Schema> = LazyLock::new(Schema::default);
static TEXT: LazyLock<Schema> = LazyLock::new(|| Schema { shape: Shape::String, ..Schema::default() });

/// A place in a schema.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    pub(super) schema: &'a Schema,
    depth: usize,
}

/// What the value at a place is to field ownership.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sort<'a> {
    /// One value.
    Leaf,
    /// An object that is one value.
    AtomicMap,
    /// An object whose fields are owned one by one.
    Map,
    /// A list that is one value.
    AtomicList,
    /// A list whose items are owned one by one: a set, or a map by these keys.
    List(&'a ListType),
}

/// What a schema says of an object's field.
pub(super) enum Field<'a> {
    /// It is named there.
    Named(Typed<'a>),
    /// It is one of those that an object may have beside its named ones.
    Other(Typed<'a>),
    /// There is no such field. (Its type is open then, since stored objects may outlive their schema.)
    Undeclared(Typed<'a>),
}

impl<'a> Field<'a> {
    pub(super) fn typed(&self) -> Typed<'a> {
        match self {
            Self::Named(typed) | Self::Other(typed) | Self::Undeclared(typed) => *typed,
        }
    }

    pub(super) fn is_named(&self) -> bool {
        matches!(self, Self::Named(_))
    }
}

impl<'a> Typed<'a> {
    pub(super) fn root(schema: &'a Schema) -> Self {
        Self { schema, depth: 0 }
    }

    fn child(self, schema: &'a Schema) -> Self {
        Self { schema, depth: self.depth + 1 }
    }

    /// What a value is here. A value of a wrong type is treated as what it should have been.
    pub(super) fn sort(self, value: &Value) -> Sort<'a> {
        if self.depth >= MAX_DEPTH {
            return Sort::Leaf;
        }
        match &self.schema.shape {
            Shape::Object { .. } if self.schema.atomic_map => Sort::AtomicMap,
            Shape::Object { .. } => Sort::Map,
            Shape::List(_) => match &self.schema.list_type {
                ListType::Atomic => Sort::AtomicList,
                ListType::Map(keys) if keys.is_empty() => Sort::AtomicList,
                keyed => Sort::List(keyed),
            },
            Shape::Any => match value {
                Value::Object(_) | Value::Null if self.schema.atomic_map => Sort::AtomicMap,
                Value::Object(_) | Value::Null => Sort::Map,
                Value::Array(_) => Sort::AtomicList,
                _ => Sort::Leaf,
            },
            Shape::String | Shape::Integer | Shape::Number | Shape::Boolean | Shape::IntOrString => {
                Sort::Leaf
            }
        }
    }

    pub(super) fn field(self, name: &str) -> Field<'a> {
        if self.depth == 0 {
            // Every kind has them, whatever its schema says (those of custom resources often say nothing).
            match name {
                "metadata" => return Field::Named(self.child(object_meta())),
                "apiVersion" | "kind" => return Field::Named(self.child(&TEXT)),
                _ => {}
            }
        }
        let Shape::Object { fields, additional, .. } = &self.schema.shape else {
            return Field::Other(self.child(&ANY));
        };
        match (fields.get(name), additional) {
            (Some(known), _) => Field::Named(self.child(known)),
            (None, Some(additional)) => Field::Other(self.child(additional)),
            (None, None) if self.schema.preserve_unknown_fields || fields.is_empty() => {
                Field::Other(self.child(&ANY))
            }
            (None, None) => Field::Undeclared(self.child(&ANY)),
        }
    }

    /// Takes out what is `null` to say that it is unset, which ends here: it was owned, and is not there.
    pub(super) fn drop_nulls(self, object: &mut Value) {
        self.schema.drop_nulls(object);
        if let Some(metadata) = object.get_mut("metadata") {
            object_meta().drop_nulls(metadata);
        }
    }

    pub(super) fn items(self) -> Typed<'a> {
        match &self.schema.shape {
            Shape::List(items) => self.child(items),
            _ => self.child(&ANY),
        }
    }

    /// The path element of a list's item.
    ///
    /// # Errors
    /// Kubernetes' words for an item that has no key.
    pub(super) fn item_element(self, list: &ListType, item: &Value) -> Result<Element, String> {
        let ListType::Map(keys) = list else {
            return match item {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".to_owned())
                }
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null".to_owned())
                }
                scalar => Ok(Element::Value(scalar.clone())),
            };
        };
        let fields = match item {
            Value::Object(fields) => fields,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let mut key = Vec::with_capacity(keys.len());
        for name in keys {
            let default = || self.items().schema.field(name).and_then(|field| field.default.as_ref());
            let Some(value) = fields.get(name).or_else(default) else {
                return Err(format!(
                    "associative list with keys has an element that omits key field {name:?} (and doesn't have default value)"
                ));
            };
            key.push((name.clone(), value.clone()));
        }
        key.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(Element::Key(key))
    }

    /// The elements of a list's items. An item without a key goes by its place, since stored objects may have such.
    pub(super) fn elements(self, list: &ListType, items: &[Value]) -> Vec<Element> {
        items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                self.item_element(list, item)
                    .unwrap_or_else(|_| Element::Index(i64::try_from(index).unwrap_or(i64::MAX)))
            })
            .collect()
    }

    /// Every field that `value` sets, as the one who applies it owns them.
    pub(super) fn fields_of(self, value: &Value) -> Set {
        self.collect(value).1
    }

    /// Whether the value is owned itself, and what is owned below it.
    fn collect(self, value: &Value) -> (bool, Set) {
        let mut set = Set::default();
        match (self.sort(value), value) {
            (Sort::Leaf | Sort::AtomicMap | Sort::AtomicList, _) => return (true, set),
            (Sort::Map, Value::Object(fields)) => {
                for (name, value) in fields {
                    let field = self.field(name);
                    let (own, below) = field.typed().collect(value);
                    let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    set.attach(&Element::field(name), own || empty || !field.is_named(), below);
                }
            }
            (Sort::List(list), Value::Array(items)) => {
                let elements = self.elements(list, items);
                let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
                for element in &elements {
                    if !seen.insert(element) {
                        twice.insert(element);
                    }
                }
                for (element, item) in elements.iter().zip(items) {
                    let below =
                        if twice.contains(element) { Set::default() } else { self.items().collect(item).1 };
                    set.attach(element, true, below);
                }
            }
            (Sort::Map | Sort::List(_), _) => {}
        }
        (false, set)
    }

    /// The set with every named field that leads to a member, as a member.
    pub(super) fn with_named_fields(self, set: &Set) -> Set {
        set.map_children(|element, child| {
            let (named, typed) = match element {
                Element::Field(name) => {
                    let field = self.field(name);
                    (field.is_named(), field.typed())
                }
                Element::Key(_) => (false, self.items()),
                Element::Value(_) | Element::Index(_) => (false, self.child(&ANY)),
            };
            (named, typed.with_named_fields(child))
        })
    }

    /// The set as this schema allows it: what has become one value is owned as one.
    pub(super) fn reconcile(self, set: &Set) -> Set {
        set.map_children(|element, child| {
            let typed = match element {
                Element::Field(name) => self.field(name).typed(),
                Element::Key(_) => self.items(),
                Element::Value(_) | Element::Index(_) => self.child(&ANY),
            };
            let atomic = match &typed.schema.shape {
                Shape::Any => false,
                _ => matches!(typed.sort(&Value::Null), Sort::Leaf | Sort::AtomicMap | Sort::AtomicList),
            };
            if atomic { (true, Set::default()) } else { (false, typed.reconcile(child)) }
        })
    }
}
