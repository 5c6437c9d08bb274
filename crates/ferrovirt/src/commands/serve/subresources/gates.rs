//! What is not done here: refused as by a KubeVirt whose feature gates for it are off.

use apiserver::http::extension::{self, Response};
use apiserver::status::ApiError;
use http::StatusCode;

/// The verb and the answer of a request for something that is off; `None` for what there is none of.
pub fn find(
    in_namespace: bool,
    is_named: bool,
    resource: &str,
    subresource: &str,
) -> Option<(&'static str, Result<Response, ApiError>)> {
    let refused = |message: &str| Err(ApiError::bad_request(message));
    let sev = "'WorkloadEncryptionSEV' feature gate is not enabled";
    Some(match (in_namespace, is_named, resource, subresource) {
        (true, true, "virtualmachines" | "virtualmachineinstances", "objectgraph") => {
            ("get", refused("ObjectGraph feature gate not enabled: Unable to return object graph."))
        }
        (true, true, "virtualmachines" | "virtualmachineinstances", "addvolume" | "removevolume") => (
            "update",
            refused("Enable DeclarativeHotplugVolumes or HotplugVolumes feature gate to use this API."),
        ),
        (true, true, "virtualmachines", "memorydump") => {
            ("update", refused("Unable to memory dump because HotplugVolumes feature gate is not enabled."))
        }
        (true, true, "virtualmachineinstances", "sev/fetchcertchain" | "sev/querylaunchmeasurement") => {
            ("get", refused(sev))
        }
        (true, true, "virtualmachineinstances", "sev/setupsession" | "sev/injectlaunchsecret") => {
            ("update", refused(sev))
        }
        (false, false, "start-cluster-profiler", "") => ("list", profiler("start profiler")),
        (false, false, "stop-cluster-profiler", "") => ("list", profiler("stop profiler")),
        (false, false, "dump-cluster-profiler", "") => ("list", profiler("dump profiler results")),
        _ => return None,
    })
}

fn profiler(what: &str) -> Result<Response, ApiError> {
    let text = format!("Unable to {what}. \"ClusterProfiler\" feature gate must be enabled");
    Ok(extension::text(StatusCode::FORBIDDEN, text))
}
