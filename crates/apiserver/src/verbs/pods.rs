//! The `binding` and `eviction` subresources of Pods.

use serde_json::{Value, json};

use crate::field;
use crate::object;
use crate::status::{ApiError, FieldError};

use super::object_rules::set_metadata;
use super::write::Revision;
use super::{Answer, Api, Body, Content, Context, DeleteOptions, Target};

/// Puts a Pod on a node (`setPodHostAndAnnotations` of Kubernetes' pod registry).
fn bound(pod: &Value, node: &str, now: jiff::Timestamp) -> Result<Value, ApiError> {
    let of = crate::status::GroupResource { group: "", resource: "pods/binding" };
    let name = object::name(pod);
    if object::is_deleting(pod) {
        let why = format!("pod {name} is being deleted, cannot be assigned to a host");
        return Err(ApiError::conflict(of, name, why));
    }
    let on = field::text(pod, "/spec/nodeName");
    if !on.is_empty() {
        return Err(ApiError::conflict(of, name, format!("pod {name} is already assigned to node {on:?}")));
    }
    let mut pod = pod.clone();
    if !pod["spec"].is_object() {
        pod["spec"] = json!({});
    }
    pod["spec"]["nodeName"] = node.into();
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": object::format_time(now),
    }));
    pod["status"]["conditions"] = conditions.into();
    Ok(pod)
}

impl Api {
    pub(super) async fn bind_pod(
        &self,
        context: &Context,
        target: &Target<'_>,
        body: Body,
    ) -> Result<Answer, ApiError> {
        let node = field::text(&body.value, "/target/name").to_owned();
        if node.is_empty() {
            let of = crate::status::GroupResource { group: "", resource: "Binding" };
            return Err(ApiError::invalid(of, target.name, &[FieldError::required("target.name", "")]));
        }
        let now = context.now;
        let version = object::resource_version(&body.value).to_owned();
        let make = move |old: &Value| {
            let mut pod = bound(old, &node, now)?;
            if !version.is_empty() {
                set_metadata(&mut pod, "resourceVersion", version.clone().into());
            }
            Ok(pod)
        };
        self.update_object(context, target, Revision::Made(Box::new(make))).await?;
        Ok(created())
    }

    pub(super) async fn evict_pod(
        &self,
        context: &Context,
        target: &Target<'_>,
        body: Body,
    ) -> Result<Answer, ApiError> {
        let sent = object::name(&body.value);
        if !sent.is_empty() && sent != target.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = match body.value.get("deleteOptions").filter(|options| !options.is_null()) {
            Some(options) => DeleteOptions::read(Some(options), &[])?,
            None => DeleteOptions::default(),
        };
        let pod = Target { subresource: "", ..*target };
        self.delete_object(context, &pod, &options).await?;
        Ok(created())
    }
}

/// 201 and a `Status`: what both subresources answer.
fn created() -> Answer {
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Answer { code: 201, content: Content::Value(status), warnings: Vec::new() }
}
