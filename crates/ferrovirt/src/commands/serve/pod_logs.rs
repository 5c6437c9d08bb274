//! `GET …/pods/NAME/log`: what a container has said, from the node's files.

use std::sync::Arc;

use apiserver::auth::Identity;
use apiserver::http::extension::{Call, Extends, Extension, Response};
use apiserver::http::request_info::RequestInfo;
use apiserver::status::{ApiError, FieldError, GroupResource};
use futures::StreamExt as _;
use kube::{Api, Client};
use node::logs::{self, LogError, LogOptions};

/// What answers for the logs of the node's Pods.
pub fn extension(node: node::Settings) -> Extension {
    let node = Arc::new(node);
    Extension {
        extends: Extends::Subresource {
            group: String::new(),
            resource: "pods".to_owned(),
            subresource: "log".to_owned(),
        },
        handler: Arc::new(move |call: Call| answer(Arc::clone(&node), call)),
    }
}

async fn answer(node: Arc<node::Settings>, call: Call) -> Result<Response, ApiError> {
    if call.info.verb != "get" {
        return Err(ApiError::no_such_method());
    }
    let name = &call.info.name;
    let pairs = call.query.pairs().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let options = LogOptions::from_query(pairs, call.now).map_err(|error| failed(&call.info, &error))?;
    // Whoever may read a log need not be one who may read the Pod.
    let server = Client::new(call.client_service(Identity::internal("system:apiserver")), "default");
    let pods: Api<_> = Api::namespaced(server, &call.info.namespace);
    let pod = super::subresources::named(&pods, name).await.map_err(ApiError::internal)?;
    let of = GroupResource { group: "", resource: "pods" };
    let pod = pod.ok_or_else(|| ApiError::not_found(of, name))?;
    let pieces = logs::open(&node, &pod, &options).await.map_err(|error| failed(&call.info, &error))?;
    let object = object(&call.info);
    let pieces = pieces.inspect(move |piece| {
        if let Err(error) = piece {
            tracing::warn!(object, %error, "a log breaks off");
        }
    });
    Ok(call.stream("text/plain", pieces))
}

fn object(info: &RequestInfo) -> String {
    format!("{}/{}", info.namespace, info.name)
}

fn failed(info: &RequestInfo, error: &LogError) -> ApiError {
    match error {
        LogError::BadRequest(message) => ApiError::bad_request(message.as_str()),
        LogError::Invalid(options) => {
            let errors: Vec<_> = options
                .iter()
                .map(|option| FieldError::invalid(option.field, option.value.as_str(), option.detail))
                .collect();
            ApiError::invalid(GroupResource { group: "", resource: "PodLogOptions" }, &info.name, &errors)
        }
        LogError::Files { source, .. } => {
            // Where the node keeps its files is nobody's business.
            tracing::warn!(object = object(info), error = %source, "a log cannot be read");
            ApiError::internal(error)
        }
    }
}
