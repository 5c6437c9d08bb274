//! What the group says of the installation itself.

use apiserver::http::extension::{self, Response};
use apiserver::status::ApiError;
use http::StatusCode;
use kube::Client;
use serde_json::{Value, json};

use super::components::NAMESPACE;

/// `GET version`: the version of what is installed, in the form of Kubernetes' `/version`.
pub fn version() -> Response {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let document = json!({
        "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{architecture}", std::env::consts::OS),
    });
    extension::json(StatusCode::OK, &document)
}

/// `GET guestfs`: the image of libguestfs' tools, of which there is none.
pub fn guestfs() -> Response {
    let error = "this server has no image of libguestfs' tools";
    let document = json!({"guestfs": {"status": "failed", "error": error}});
    extension::json(StatusCode::INTERNAL_SERVER_ERROR, &document)
}

/// `GET healthz`: whether the API answers, and which configuration is in force.
pub async fn health(server: Client) -> Result<Response, ApiError> {
    let get = async |path: &str| -> Result<Value, kube::Error> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        server.request(request).await
    };
    let installation = format!("/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/kubevirts/kubevirt");
    let answers = async { Ok::<_, kube::Error>((get("/version").await?, get(&installation).await?)) };
    let (code, document) = match answers.await {
        Ok((version, installation)) => (
            StatusCode::OK,
            json!({
                "apiserver": {"connectivity": "ok", "version": version},
                "config-resource-version": installation["metadata"]["resourceVersion"],
            }),
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            json!({"apiserver": {"connectivity": "failed", "error": error.to_string()}}),
        ),
    };
    Ok(extension::json(code, &document))
}
