//! Lists in a strategic merge patch: merging by key or as sets, and the order that comes of it.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{Fault, PATCH, merge_map, strategy, taken, unknown_directive};
use crate::go;
use crate::schema::Schema;

/// The JSON type that all items of the lists share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Items {
    Maps,
    Scalars,
}

/// Merges `patch` into `original` as `schema` (of the list) says: replaced, merged by key, or as a set.
pub(super) fn merge(
    original: Vec<Value>,
    patch: &[Value],
    schema: Option<&Schema>,
) -> Result<Vec<Value>, Fault> {
    if !strategy(schema).merge {
        return Ok(patch.iter().filter_map(taken).collect());
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    match item_type(&[&original, patch])? {
        Items::Scalars => {
            let mut seen = HashSet::new();
            let merged: Vec<Value> =
                original.iter().chain(patch).filter(|item| seen.insert(item.to_string())).cloned().collect();
            arrange(merged, patch, &positions(&original, None), None)
        }
        Items::Maps => {
            let key = merge_key(schema).ok_or_else(|| {
                Fault::Other("cannot merge lists without merge key for type struct".to_owned())
            })?;
            let (original, plain) = follow_directives(original, patch, key)?;
            let order = positions(&original, Some(key));
            let merged = merge_maps(original, &plain, key, schema)?;
            let plain: Vec<Value> = plain.into_iter().cloned().collect();
            arrange(merged, &plain, &order, Some(key))
        }
    }
}

/// Merges a list whose order the patch gives with `$setElementOrder`. At least one of `original` and `patch` is there.
pub(super) fn merge_ordered(
    original: Option<&Vec<Value>>,
    patch: Option<&Vec<Value>>,
    order: &[Value],
    schema: Option<&Schema>,
) -> Result<Vec<Value>, Fault> {
    let key = merge_key(schema);
    let nothing = Vec::new();
    check_order(patch.unwrap_or(&nothing), order, key)?;
    let merged = match (original, patch) {
        (Some(original), Some(patch)) => merge(original.clone(), patch, schema)?,
        (Some(original), None) => original.clone(),
        (None, patch) => patch.unwrap_or(&nothing).iter().filter_map(taken).collect(),
    };
    let original = original.unwrap_or(&nothing);
    let items = item_type(&[original, patch.unwrap_or(&nothing)])?;
    if items == Items::Maps && key.is_none() {
        return Err(Fault::Other("cannot merge lists without merge key for type struct".to_owned()));
    }
    let key = if items == Items::Maps { key } else { None };
    arrange(merged, order, &positions(original, key), key)
}

/// Removes each of `unwanted` from `list`.
pub(super) fn delete(list: &mut Vec<Value>, unwanted: &[Value]) -> Result<(), Fault> {
    if list.is_empty() && unwanted.is_empty() {
        return Ok(());
    }
    item_type(&[list, unwanted])?;
    let unwanted: HashSet<String> = unwanted.iter().map(ToString::to_string).collect();
    list.retain(|item| !unwanted.contains(&item.to_string()));
    Ok(())
}

fn merge_key(schema: Option<&Schema>) -> Option<&str> {
    schema.and_then(|schema| schema.patch_merge_key.as_deref()).filter(|key| !key.is_empty())
}

/// Looks at every item of the lists: all must have one type, and it must not be a list.
fn item_type(lists: &[&[Value]]) -> Result<Items, Fault> {
    let mut items = lists.iter().copied().flatten();
    let first =
        items.next().ok_or_else(|| Fault::Other("no elements in any of the given slices".to_owned()))?;
    if first.is_array() {
        return Err(Fault::ListOfLists);
    }
    if first.is_null() || items.any(|item| go::type_name(item) != go::type_name(first)) {
        let quoted: Vec<Value> = lists.iter().map(|list| Value::Array(list.to_vec())).collect();
        return Err(Fault::Other(format!(
            "list element types are not identical: {}",
            go::text(&Value::Array(quoted))
        )));
    }
    Ok(if first.is_object() { Items::Maps } else { Items::Scalars })
}

fn as_map(item: &Value) -> Result<&Map<String, Value>, Fault> {
    match item {
        Value::Object(map) => Ok(map),
        other => Err(Fault::wrong_type("map[string]interface {}", other)),
    }
}

/// What identifies the item: the value of its merge key, or the item itself; as JSON, so that it can be looked up.
fn identity(item: &Value, key: Option<&str>) -> Result<String, Fault> {
    let Some(key) = key else { return Ok(item.to_string()) };
    let map = as_map(item)?;
    match map.get(key) {
        Some(value) => Ok(value.to_string()),
        None => Err(Fault::NoMergeKey { map: go::map_text(map), key: key.to_owned() }),
    }
}

/// Where each item is first found. Items that cannot be identified are nowhere.
fn positions(list: &[Value], key: Option<&str>) -> HashMap<String, usize> {
    let mut positions = HashMap::with_capacity(list.len());
    for (position, item) in list.iter().enumerate() {
        if let Ok(identity) = identity(item, key) {
            positions.entry(identity).or_insert(position);
        }
    }
    positions
}

/// Carries out the items of the patch that are directives; returns what is left of the original and of the patch.
fn follow_directives<'a>(
    original: Vec<Value>,
    patch: &'a [Value],
    key: &str,
) -> Result<(Vec<Value>, Vec<&'a Value>), Fault> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut unwanted = HashSet::new();
    let mut replace = false;
    for item in patch {
        let map = as_map(item)?;
        match map.get(PATCH) {
            None => plain.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    unwanted.insert(identity(item, Some(key))?);
                }
                Some("replace") => replace = true,
                Some("merge") => {
                    return Err(Fault::Other(
                        "merging lists cannot yet be specified in the patch".to_owned(),
                    ));
                }
                _ => return Err(unknown_directive(directive, map)),
            },
        }
    }
    if replace {
        return Ok((plain.into_iter().filter_map(taken).collect(), Vec::new()));
    }
    let mut original = original;
    if !unwanted.is_empty() {
        // Items without the merge key match nothing, and stay.
        original.retain(|item| !identity(item, Some(key)).is_ok_and(|identity| unwanted.contains(&identity)));
    }
    Ok((original, plain))
}

fn merge_maps(
    original: Vec<Value>,
    patch: &[&Value],
    key: &str,
    schema: Option<&Schema>,
) -> Result<Vec<Value>, Fault> {
    let items = schema.and_then(Schema::items).map(AsRef::as_ref);
    let mut merged = original;
    let mut known = positions(&merged, Some(key));
    for item in patch {
        let identity = identity(item, Some(key))?;
        if let Some(position) = known.get(&identity) {
            if let Some(Value::Object(into)) = merged.get_mut(*position) {
                merge_map(into, as_map(item)?, items)?;
            }
        } else if let Some(item) = taken(item) {
            known.insert(identity, merged.len());
            merged.push(item);
        }
    }
    Ok(merged)
}

/// Refuses a patch whose items are in another order than `order` has them, or that has items which `order` lacks.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), Fault> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in patch {
        if key.is_some() && as_map(item)?.contains_key(PATCH) {
            continue;
        }
        let sought = identity(item, key)?;
        let mut found = false;
        for candidate in wanted.by_ref() {
            if identity(candidate, key)? == sought {
                found = true;
                break;
            }
        }
        if !found {
            let patch = go::text(&Value::Array(patch.to_vec()));
            let order = go::text(&Value::Array(order.to_vec()));
            return Err(Fault::Other(format!(
                "The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

/// Puts the merged list in order. The items that `wanted` names come in its order, the server's own keep theirs, and
/// each of the server's own comes before the first of the others that it preceded in the live list.
fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    live: &HashMap<String, usize>,
    key: Option<&str>,
) -> Result<Vec<Value>, Fault> {
    let mut places = HashMap::with_capacity(wanted.len());
    for (place, item) in wanted.iter().enumerate() {
        places.entry(identity(item, key)?).or_insert(place);
    }
    let mut named = Vec::new();
    let mut own = Vec::new();
    for item in merged {
        let identity = identity(&item, key)?;
        let live = live.get(&identity).copied();
        match places.get(&identity) {
            Some(place) => named.push((*place, live, item)),
            None => own.push((live, item)),
        }
    }
    named.sort_by_key(|(place, _, _)| *place);
    own.sort_by_key(|(live, _)| *live);

    let mut arranged = Vec::with_capacity(named.len() + own.len());
    let mut own = own.into_iter().peekable();
    for (_, live, item) in named {
        while let Some((_, earlier)) = own.next_if(
            |(own_live, _)| matches!((own_live, live), (Some(own_live), Some(live)) if *own_live < live),
        ) {
            arranged.push(earlier);
        }
        arranged.push(item);
    }
    arranged.extend(own.map(|(_, item)| item));
    Ok(arranged)
}
