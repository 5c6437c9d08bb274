//! Merging, comparing and cutting values by their schema.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::element::{Element, same};
use super::set::Set;
use super::typed::{Sort, Typed};
use crate::schema::ListType;

/// What differs between two values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// In the new value alone.
    pub(super) added: Set,
    /// In both, and different.
    pub(super) modified: Set,
    /// In the old value alone.
    pub(super) removed: Set,
}

/// What differs at one place, which has no name of its own.
#[derive(Default)]
struct Here {
    added: bool,
    modified: bool,
    removed: bool,
    below: Comparison,
}

impl Comparison {
    /// Every field whose value is the new one's.
    pub(super) fn changed(&self) -> Set {
        self.modified.union(&self.added)
    }

    /// The same, where nothing else of the comparison is wanted.
    pub(super) fn into_changed(self) -> Set {
        let mut changed = self.modified;
        changed.absorb(self.added);
        changed
    }

    fn attach(&mut self, element: &Element, here: Here) {
        self.added.attach(element, here.added, here.below.added);
        self.modified.attach(element, here.modified, here.below.modified);
        self.removed.attach(element, here.removed, here.below.removed);
    }
}

/// What differs between `old` and `new`.
pub(super) fn compare(typed: Typed<'_>, old: &Value, new: &Value) -> Comparison {
    compare_at(typed, Some(old), Some(new)).below
}

fn compare_at(typed: Typed<'_>, old: Option<&Value>, new: Option<&Value>) -> Here {
    let mut here = Here::default();
    let sorts = match (old, new) {
        (None, None) => return here,
        (Some(only), None) | (None, Some(only)) => (typed.sort(only), None),
        (Some(old), Some(new)) => {
            let (old, new) = (typed.sort(old), typed.sort(new));
            (new, (old != new).then_some(old))
        }
    };
    // A value that changed its type is looked at as what it was and as what it is.
    if let Some(was) = sorts.1 {
        compare_as(typed, was, old, new, &mut here);
    }
    compare_as(typed, sorts.0, old, new, &mut here);
    here
}

fn compare_as(typed: Typed<'_>, sort: Sort<'_>, old: Option<&Value>, new: Option<&Value>, here: &mut Here) {
    match sort {
        Sort::Map if !both_empty(old, new, |value| value.as_object().map_or(0, Map::len)) => {
            let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let names: BTreeSet<&String> =
                old.into_iter().flat_map(Map::keys).chain(new.into_iter().flat_map(Map::keys)).collect();
            for name in names {
                let old = old.and_then(|fields| fields.get(name));
                let new = new.and_then(|fields| fields.get(name));
                let below = compare_at(typed.field(name).typed(), old, new);
                here.below.attach(&Element::field(name), below);
            }
        }
        Sort::List(list) if !both_empty(old, new, |value| value.as_array().map_or(0, Vec::len)) => {
            compare_lists(typed, list, items(old), items(new), here);
        }
        _ => {
            match (old, new) {
                (None, _) => here.added = true,
                (_, None) => here.removed = true,
                (Some(old), Some(new)) if !same(old, new) => here.modified = true,
                _ => {}
            }
            return;
        }
    }
    here.added |= old.is_none();
    here.removed |= new.is_none();
}

/// Values that are both empty are told apart as one value each, so that `null`, `{}` and nothing stay different.
fn both_empty(old: Option<&Value>, new: Option<&Value>, length: impl Fn(&Value) -> usize) -> bool {
    old.map_or(0, &length) == 0 && new.map_or(0, &length) == 0
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn compare_lists(typed: Typed<'_>, list: &ListType, old: &[Value], new: &[Value], here: &mut Here) {
    let (old_elements, new_elements) = (typed.elements(list, old), typed.elements(list, new));
    let mut by_element: BTreeMap<&Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (element, item) in old_elements.iter().zip(old) {
        by_element.entry(element).or_default().0.push(item);
    }
    for (element, item) in new_elements.iter().zip(new) {
        by_element.entry(element).or_default().1.push(item);
    }
    for (element, (old, new)) in by_element {
        let items = typed.items();
        let whole =
            |added, modified, removed| Here { added, modified, removed, below: Comparison::default() };
        let found = match (&old[..], &new[..]) {
            ([] | [_], [] | [_]) => compare_at(items, old.first().copied(), new.first().copied()),
            // Items of one key are owned together, as a whole.
            ([_, _, ..], [_, _, ..]) => {
                let equal = old.len() == new.len() && old.iter().zip(&new).all(|(old, new)| same(old, new));
                whole(false, !equal, false)
            }
            ([_, _, ..], []) => whole(false, false, true),
            ([_, _, ..], [one]) => compare_at(items, None, Some(one)),
            ([], [_, _, ..]) => whole(true, false, false),
            ([one], [_, _, ..]) => Here { added: true, ..compare_at(items, Some(one), None) },
        };
        here.below.attach(element, found);
    }
}

/// What `applied` makes of `live`: nothing is removed, and what both have is as `applied` has it.
///
/// # Errors
/// When the applied value has two items of one key.
pub(super) fn merge(typed: Typed<'_>, live: &Value, applied: &Value) -> Result<Value, String> {
    Ok(merge_at(typed, Some(live), Some(applied))?.unwrap_or(Value::Null))
}

fn merge_at(
    typed: Typed<'_>,
    live: Option<&Value>,
    applied: Option<&Value>,
) -> Result<Option<Value>, String> {
    let Some(value) = applied.or(live) else { return Ok(None) };
    match typed.sort(value) {
        Sort::Map if !both_empty(live, applied, |value| value.as_object().map_or(0, Map::len)) => {
            let (live, applied) = (live.and_then(Value::as_object), applied.and_then(Value::as_object));
            let mut out = Map::new();
            for (name, live) in live.into_iter().flatten() {
                let theirs = applied.and_then(|applied| applied.get(name));
                if let Some(merged) = merge_at(typed.field(name).typed(), Some(live), theirs)? {
                    out.insert(name.clone(), merged);
                }
            }
            for (name, applied) in applied.into_iter().flatten() {
                if live.is_some_and(|live| live.contains_key(name)) {
                    continue;
                }
                if let Some(merged) = merge_at(typed.field(name).typed(), None, Some(applied))? {
                    out.insert(name.clone(), merged);
                }
            }
            Ok(Some(Value::Object(out)))
        }
        Sort::List(list) if !both_empty(live, applied, |value| value.as_array().map_or(0, Vec::len)) => {
            merge_lists(typed, list, items(live), items(applied)).map(Some)
        }
        _ => Ok(Some(value.clone())),
    }
}

/// Items are ordered as the applied list has them; those of the live list alone stay near those they stood near.
fn merge_lists(
    typed: Typed<'_>,
    list: &ListType,
    live: &[Value],
    applied: &[Value],
) -> Result<Value, String> {
    let (live_elements, applied_elements) = (typed.elements(list, live), typed.elements(list, applied));
    let mut live_items: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (element, item) in live_elements.iter().zip(live) {
        // Items of one key cannot be told apart, so the applied one takes the place of them all.
        live_items.entry(element).and_modify(|known| *known = None).or_insert(Some(item));
    }
    let mut applied_items: BTreeMap<&Element, &Value> = BTreeMap::new();
    for (element, item) in applied_elements.iter().zip(applied) {
        if applied_items.insert(element, item).is_some() {
            return Err(format!("duplicate entries for key {element}"));
        }
    }
    let mut shared = applied_elements.iter().filter(|element| live_items.contains_key(element));
    let mut next_shared = shared.next();
    let mut taken = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let mut put = |live, applied| -> Result<(), String> {
        out.extend(merge_at(typed.items(), live, applied)?);
        Ok(())
    };
    let (mut left, mut right) = (0, 0);
    while left < live.len() || right < applied.len() {
        if left < live.len() && right < applied.len() {
            let element = &live_elements[left];
            if *element == applied_elements[right] {
                taken.insert(element);
                put(live_items.get(element).copied().flatten(), Some(&applied[right]))?;
                left += 1;
                right += 1;
                next_shared = shared.next();
                continue;
            }
            if applied_items.contains_key(element) && next_shared.is_some_and(|next| next != element) {
                // It has its turn when the applied list comes to it.
                left += 1;
                continue;
            }
        }
        if left < live.len() {
            let element = &live_elements[left];
            if !applied_items.contains_key(element) {
                put(Some(&live[left]), None)?;
                left += 1;
                continue;
            }
            if taken.contains(element) {
                left += 1;
            }
        }
        if right < applied.len() {
            let element = &applied_elements[right];
            taken.insert(element);
            put(live_items.get(element).copied().flatten(), Some(&applied[right]))?;
            right += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        }
    }
    Ok(Value::Array(out))
}

/// The value without the fields and items that `unwanted` names. What loses all its content is `null`.
pub(super) fn remove(typed: Typed<'_>, value: &Value, unwanted: &Set) -> Value {
    match (typed.sort(value), value) {
        (Sort::Map, Value::Object(fields)) => {
            let mut out = Map::new();
            for (name, value) in fields {
                let element = Element::field(name);
                if unwanted.has_member(&element) {
                    continue;
                }
                let value = match unwanted.below(&element) {
                    Some(below) => remove(typed.field(name).typed(), value, below),
                    None => value.clone(),
                };
                out.insert(name.clone(), value);
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        (Sort::List(list), Value::Array(items)) => {
            let mut out = Vec::with_capacity(items.len());
            for (element, item) in typed.elements(list, items).into_iter().zip(items) {
                if unwanted.has_member(&element) {
                    continue;
                }
                out.push(match unwanted.below(&element) {
                    Some(below) => remove(typed.items(), item, below),
                    None => item.clone(),
                });
            }
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
        (Sort::Leaf, value) => value.clone(),
        _ => Value::Null,
    }
}
