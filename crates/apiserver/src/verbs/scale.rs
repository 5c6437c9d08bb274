//! The `scale` subresource: `autoscaling/v1` Scale seen over two paths of an object.

use serde_json::{Value, json};

use crate::kind::Scale;
use crate::object;
use crate::status::{ApiError, FieldError, GroupResource};

use super::object_rules::{allows_unconditional_update, set_metadata};
use super::write::{Make, Revision};
use super::{Answer, Api, Body, Content, Context, Patch, PatchFormat, Target};
use crate::{decode, patch};

/// Steps of a path such as `.spec.replicas`.
fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split('.').filter(|step| !step.is_empty())
}

fn look<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).try_fold(object, |value, step| value.get(step))
}

fn put(object: &mut Value, path: &str, new: Value) {
    let mut place = object;
    for step in steps(path) {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[step];
    }
    *place = new;
}

/// The Scale of an object. Pure.
fn scale_of(scale: &Scale, object: &Value) -> Value {
    let number = |path: &str| look(object, path).and_then(Value::as_i64).unwrap_or_default();
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object::metadata(object).and_then(|metadata| metadata.get(field)) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut status = json!({"replicas": number(scale.status_replicas)});
    if let Some(selector) = scale.label_selector.and_then(|path| look(object, path)) {
        status["selector"] = match selector {
            Value::String(text) => text.clone().into(),
            labels => selector_text(labels).into(),
        };
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(scale.spec_replicas)}, "status": status,
    })
}

/// `matchLabels` as a selector's text.
fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let parts = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    parts.collect::<Vec<_>>().join(",")
}

/// Checks a Scale that was sent, and writes its replicas into the object.
fn scaled(
    target_name: &str,
    scale: &Scale,
    sent: &Value,
    old: &Value,
    unconditional: bool,
) -> Result<Value, ApiError> {
    let of_kind = GroupResource { group: "autoscaling", resource: "Scale" };
    let kind = sent.get("kind").and_then(Value::as_str).unwrap_or("Scale");
    if kind != "Scale" {
        return Err(ApiError::bad_request(format!("expected input object type to be Scale, but {kind}")));
    }
    let name = object::name(sent);
    if !name.is_empty() && name != target_name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({target_name})"
        )));
    }
    let replicas = sent.pointer("/spec/replicas").cloned().unwrap_or_else(|| 0.into());
    let replicas = match replicas.as_i64() {
        Some(replicas) if (0..=i64::from(i32::MAX)).contains(&replicas) => replicas,
        _ => {
            let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            return Err(ApiError::invalid(of_kind, target_name, &[error]));
        }
    };
    let mut new = old.clone();
    put(&mut new, scale.spec_replicas, replicas.into());
    let version = object::resource_version(sent);
    if !version.is_empty() {
        set_metadata(&mut new, "resourceVersion", version.into());
    } else if unconditional {
        set_metadata(&mut new, "resourceVersion", object::resource_version(old).into());
    }
    Ok(new)
}

impl Api {
    fn scale(&self, target: &Target<'_>) -> Result<Scale, ApiError> {
        target.kind.scale.ok_or_else(ApiError::no_such_path)
    }

    fn shown(&self, scale: &Scale, answer: Answer) -> Result<Answer, ApiError> {
        let object = answer.value()?;
        Ok(Answer { content: Content::Value(scale_of(scale, &object)), ..answer })
    }

    pub(super) async fn get_scale(&self, target: &Target<'_>) -> Result<Answer, ApiError> {
        let scale = self.scale(target)?;
        let answer = self.get_object(target, "").await?;
        self.shown(&scale, answer)
    }

    pub(super) async fn update_scale(
        &self,
        context: &Context,
        target: &Target<'_>,
        body: Body,
    ) -> Result<Answer, ApiError> {
        let scale = self.scale(target)?;
        let name = target.name.to_owned();
        let unconditional = allows_unconditional_update(target.kind);
        let make = move |old: &Value| scaled(&name, &scale, &body.value, old, unconditional);
        self.write_scale(context, target, &scale, Box::new(make)).await
    }

    pub(super) async fn patch_scale(
        &self,
        context: &Context,
        target: &Target<'_>,
        patch: Patch,
    ) -> Result<Answer, ApiError> {
        let scale = self.scale(target)?;
        let name = target.name.to_owned();
        let make = move |old: &Value| {
            let now = scale_of(&scale, old);
            let sent = match patch.format {
                PatchFormat::Json => patch::json(&now, &patch.body)?,
                // A Scale has no lists: the three others do the same to it.
                PatchFormat::Merge | PatchFormat::Strategic => {
                    patch::merge(&now, &decode::json(&patch.body)?.value)
                }
                PatchFormat::Apply => patch::merge(&now, &decode::yaml(&patch.body)?.value),
            };
            scaled(&name, &scale, &sent, old, true)
        };
        self.write_scale(context, target, &scale, Box::new(make)).await
    }

    async fn write_scale(
        &self,
        context: &Context,
        target: &Target<'_>,
        scale: &Scale,
        make: Make<'_>,
    ) -> Result<Answer, ApiError> {
        let answer = self.update_object(context, target, Revision::Made(make)).await?;
        self.shown(scale, answer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SCALE: Scale = Scale {
        spec_replicas: ".spec.replicas",
        status_replicas: ".status.replicas",
        label_selector: Some(".status.labelSelector"),
    };

    #[test]
    fn a_scale_shows_and_sets_the_replicas() {
        let object = json!({"metadata": {"name": "a", "resourceVersion": "3"}, "spec": {"replicas": 2},
            "status": {"replicas": 1, "labelSelector": "a=b"}});
        let scale = scale_of(&SCALE, &object);
        assert_eq!(scale["spec"], json!({"replicas": 2}));
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a=b"}));
        let mut sent = scale;
        sent["spec"]["replicas"] = 5.into();
        assert_eq!(scaled("a", &SCALE, &sent, &object, false).unwrap()["spec"]["replicas"], 5);
        sent["spec"]["replicas"] = json!(-1);
        assert_eq!(scaled("a", &SCALE, &sent, &object, false).unwrap_err().code, 422);
    }
}
