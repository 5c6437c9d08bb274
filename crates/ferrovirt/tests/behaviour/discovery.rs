//! What the server says of itself.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::target::{Space, with_space};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn both_forms_of_discovery_say_the_same() {
    with_space(|space| async move {
        let versions = space.get("/api").await.ok(200);
        assert_eq!((&versions["kind"], &versions["versions"]), (&json!("APIVersions"), &json!(["v1"])));
        let groups = space.get("/apis").await.ok(200);
        assert_eq!((&groups["kind"], &groups["apiVersion"]), (&json!("APIGroupList"), &json!("v1")));
        let mut paths = vec![("v1".to_owned(), "/api/v1".to_owned())];
        for group in groups["groups"].as_array().unwrap() {
            let name = group["name"].as_str().unwrap();
            let one = space.get(&format!("/apis/{name}")).await.ok(200);
            assert_eq!((&one["kind"], &one["versions"]), (&json!("APIGroup"), &group["versions"]), "{name}");
            assert_eq!(one["preferredVersion"], group["versions"][0], "{name}");
            for version in group["versions"].as_array().unwrap() {
                let version = version["groupVersion"].as_str().unwrap().to_owned();
                let path = format!("/apis/{version}");
                paths.push((version, path));
            }
        }
        let mut legacy = BTreeSet::new();
        for (version, path) in &paths {
            let list = space.get(path).await.ok(200);
            assert_eq!(
                (&list["kind"], &list["groupVersion"]),
                (&json!("APIResourceList"), &json!(version)),
                "{path}"
            );
            for resource in list["resources"].as_array().unwrap() {
                let name = resource["name"].as_str().unwrap();
                // KubeVirt's own API server names no verbs.
                let has_verbs = !version.starts_with("subresources.kubevirt.io/");
                assert_eq!(!resource["verbs"].as_array().unwrap().is_empty(), has_verbs, "{version} {name}");
                legacy.insert(format!(
                    "{version} {name} {} {}",
                    resource["kind"],
                    sorted(&resource["verbs"])
                ));
            }
        }
        let mut aggregated = BTreeSet::new();
        for path in ["/api", "/apis"] {
            let reply = space.send("GET", path, &[("accept", AGGREGATED)], ()).await;
            assert_eq!(reply.header("content-type"), AGGREGATED, "{path}");
            assert!(reply.header("etag").len() > 2, "{path}");
            let again = space
                .send("GET", path, &[("accept", AGGREGATED), ("if-none-match", reply.header("etag"))], ())
                .await;
            assert_eq!((again.code, again.body.len()), (304, 0), "{path}");
            let list = reply.ok(200);
            assert_eq!(
                (&list["kind"], &list["apiVersion"]),
                (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
            );
            for group in list["items"].as_array().unwrap() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                for version in group["versions"].as_array().unwrap() {
                    let short = version["version"].as_str().unwrap();
                    let version_name =
                        if name.is_empty() { short.to_owned() } else { format!("{name}/{short}") };
                    for resource in version["resources"].as_array().into_iter().flatten() {
                        let plural = resource["resource"].as_str().unwrap();
                        let line = |name: &str, of: &Value| {
                            let kind = &of["responseKind"]["kind"];
                            format!("{version_name} {name} {kind} {}", sorted(&of["verbs"]))
                        };
                        let subresources = resource["subresources"].as_array().into_iter().flatten();
                        // A resource that only carries subresources has no line of its own in the older form.
                        if resource["verbs"] != json!([]) || subresources.clone().next().is_none() {
                            aggregated.insert(line(plural, resource));
                        }
                        for below in subresources {
                            let name = format!("{plural}/{}", below["subresource"].as_str().unwrap());
                            aggregated.insert(line(&name, below));
                        }
                    }
                }
            }
        }
        let (only_legacy, only_new): (Vec<_>, Vec<_>) =
            (legacy.difference(&aggregated).collect(), aggregated.difference(&legacy).collect());
        assert!(
            only_legacy.is_empty() && only_new.is_empty(),
            "legacy alone: {only_legacy:#?}; aggregated alone: {only_new:#?}"
        );
        assert!(legacy.len() > 30);
        if space.target.ours_alone() {
            let has =
                |text: &str| assert!(legacy.iter().any(|line| line.starts_with(text)), "{text}: {legacy:#?}");
            for text in [
                "v1 pods/log ",
                "v1 serviceaccounts/token \"TokenRequest\"",
                "apps/v1 deployments/scale \"Scale\"",
                "kubevirt.io/v1 virtualmachines \"VirtualMachine\"",
                "kubevirt.io/v1alpha3 virtualmachineinstances ",
                "coordination.k8s.io/v1 leases ",
                "discovery.k8s.io/v1 endpointslices ",
                "storage.k8s.io/v1 csidrivers ",
            ] {
                has(text);
            }
        }
        // Everything that can be listed can be listed.
        for line in &legacy {
            let mut words = line.split(' ');
            let (version, name) = (words.next().unwrap(), words.next().unwrap());
            if !name.contains('/') && line.contains("\"list\"") {
                let base = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
                let list = space.get(&format!("{base}/{name}?limit=1")).await.ok(200);
                assert!(list["items"].is_array(), "{line}");
            }
        }
    })
    .await;
}

fn sorted(verbs: &Value) -> Value {
    let mut all: Vec<_> = verbs.as_array().unwrap().iter().map(|verb| verb.as_str().unwrap()).collect();
    all.sort_unstable();
    json!(all)
}

/// Every `$ref` in a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("$ref", Value::String(text)) => found.push(text),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

async fn document(space: &Space, path: &str) -> Value {
    let document = space.get(path).await.ok(200);
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty(), "{path}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{path}: {reference}"));
        assert!(document.pointer(pointer).is_some(), "{path}: {reference} leads nowhere");
    }
    document
}

#[tokio::test]
async fn schemas_are_whole() {
    with_space(|space| async move {
        let root = space.get("/openapi/v3").await.ok(200);
        let paths = root["paths"].as_object().unwrap();
        for name in ["api/v1", "apis/apps/v1", "apis/coordination.k8s.io/v1"] {
            assert!(paths.contains_key(name), "{name}");
        }
        let mut operations = 0;
        for (name, entry) in paths {
            let url = entry["serverRelativeURL"].as_str().unwrap();
            assert!(url.starts_with("/openapi/v3/"), "{name}: {url}");
            let is_group = name.starts_with("api/") || name.matches('/').count() == 2;
            if !is_group {
                continue;
            }
            let document = document(&space, url).await;
            assert_eq!(document["openapi"].as_str().map(|version| &version[..2]), Some("3."), "{name}");
            for (path, item) in document["paths"].as_object().unwrap() {
                assert!(path.starts_with(&format!("/{name}/")), "{path} in {name}");
                for (method, operation) in item.as_object().unwrap() {
                    if ["get", "post", "put", "patch", "delete"].contains(&method.as_str()) {
                        operations += 1;
                        assert!(operation["responses"].is_object(), "{method} {path}");
                    }
                }
            }
        }
        assert!(operations > 100, "{operations}");
        let core = space.get("/openapi/v3/api/v1").await.ok(200);
        let pod = &core["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(
            pod["x-kubernetes-group-version-kind"],
            json!([{"group": "", "kind": "Pod", "version": "v1"}])
        );
        let containers =
            &core["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name", "{containers}");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        let swagger = document(&space, "/openapi/v2").await;
        assert_eq!(swagger["swagger"], "2.0");
        assert!(swagger["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
        if space.target.ours_alone() {
            let ours = space.get("/openapi/v3/apis/kubevirt.io/v1").await.ok(200);
            let schemas = ours["components"]["schemas"].as_object().unwrap();
            let machine = schemas.values().find(|schema| {
                schema["x-kubernetes-group-version-kind"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|k| k["kind"] == "VirtualMachine"))
            });
            assert!(machine.is_some());
        }
    })
    .await;
}

#[tokio::test]
async fn versions_and_health_are_told() {
    with_space(|space| async move {
        let version = space.get("/version").await.ok(200);
        for field in ["major", "minor", "gitVersion", "goVersion", "platform"] {
            assert!(version[field].is_string(), "{field}: {version}");
        }
        for path in ["/healthz", "/livez", "/readyz"] {
            let reply = space.get(path).await;
            assert_eq!((reply.code, &reply.body[..]), (200, b"ok".as_slice()), "{path}");
            let reply = space.get(&format!("{path}?verbose")).await;
            let text = String::from_utf8(reply.body.to_vec()).unwrap();
            assert!(text.contains("[+]ping ok\n"), "{text}");
            assert!(text.ends_with(&format!("{} check passed\n", &path[1..])), "{text}");
        }
        let metrics = space.send("GET", "/metrics", &[("accept", "*/*")], ()).await;
        assert_eq!(metrics.code, 200);
        assert!(String::from_utf8_lossy(&metrics.body).contains("apiserver_request_total"));
    })
    .await;
}
