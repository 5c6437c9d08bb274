//! The annotation in which kubectl's client-side apply remembers what it applied.

use serde_json::{Value, json};

use super::element::go_json;
use super::merge::compare;
use super::set::Set;
use super::typed::Typed;
use super::{Manager, check};
use crate::object::{metadata, metadata_mut};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The only manager that the annotation is looked at for: the name that kubectl's server-side apply goes by.
const KUBECTL: &str = "kubectl";

/// How much all annotations may hold, in bytes; the annotation is dropped where it would not fit.
/// `TotalAnnotationSizeLimitB` of `k8s.io/apimachinery/pkg/api/validation`.
const MAX_ANNOTATIONS: usize = 256 * 1024;

fn annotation(object: &Value) -> Option<&str> {
    metadata(object)?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// The fields that client-side apply set and that are still as it set them; `None` where that is not known or is no
/// matter of `manager`'s.
pub(super) fn fields(live: &Value, typed: Typed<'_>, manager: &Manager) -> Option<Set> {
    if manager.name != KUBECTL {
        return None;
    }
    let applied: Value = serde_json::from_str(annotation(live)?).ok()?;
    if applied.get("apiVersion")?.as_str()? != manager.api_version
        || !check::faults(typed, &applied).is_empty()
    {
        return None;
    }
    let comparison = compare(typed, &applied, live);
    let differing = comparison.changed().union(&comparison.removed);
    Some(typed.fields_of(&applied).difference(&differing))
}

/// Keeps the annotation, where there is one, in step with what kubectl applied, for the day when it goes back to
/// client-side apply.
pub(super) fn update(merged: &mut Value, applied: &Value, manager: &Manager) {
    if manager.name != KUBECTL || annotation(merged).is_none() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(ANNOTATION);
    }
    let text = go_json(&applied) + "\n";
    let Some(annotations) = metadata_mut(merged)
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    annotations.insert(ANNOTATION.to_owned(), json!(text));
    let size: usize =
        annotations.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.shift_remove(ANNOTATION);
    }
}
