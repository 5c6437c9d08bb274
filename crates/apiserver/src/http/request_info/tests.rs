#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// verb, group, version, namespace, resource, subresource, name
type Expected =
    (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

fn info(method: &str, target: &str) -> Result<RequestInfo, PathError> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    RequestInfo::new(&Method::from_bytes(method.as_bytes()).unwrap(), path, &Query::parse(query))
}

#[test]
fn resources_are_found_as_kubernetes_finds_them() {
    let table: &[(&str, &str, Expected)] = &[
        ("GET", "/api/v1/namespaces", ("list", "", "v1", "", "namespaces", "", "")),
        ("GET", "/api/v1/namespaces/other", ("get", "", "v1", "other", "namespaces", "", "other")),
        (
            "PUT",
            "/api/v1/namespaces/other/finalize",
            ("update", "", "v1", "other", "namespaces", "finalize", "other"),
        ),
        (
            "PUT",
            "/api/v1/namespaces/other/status",
            ("update", "", "v1", "other", "namespaces", "status", "other"),
        ),
        ("GET", "/api/v1/namespaces/other/pods", ("list", "", "v1", "other", "pods", "", "")),
        ("GET", "/api/v1/namespaces/other/pods/", ("list", "", "v1", "other", "pods", "", "")),
        ("GET", "/api/v1/namespaces/other/pods/foo", ("get", "", "v1", "other", "pods", "", "foo")),
        ("HEAD", "/api/v1/namespaces/other/pods/foo", ("get", "", "v1", "other", "pods", "", "foo")),
        ("GET", "/api/v1/namespaces/other/pods/foo/log", ("get", "", "v1", "other", "pods", "log", "foo")),
        ("GET", "/api/v1/pods", ("list", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/pods?watch=true", ("watch", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/pods?watch=1", ("watch", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/pods?watch", ("watch", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/pods?watch=False", ("list", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/pods?watch=0", ("list", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/namespaces/a/pods/x?watch=true", ("get", "", "v1", "a", "pods", "", "x")),
        ("GET", "/api/v1/watch/pods", ("watch", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/watch/namespaces/a/pods", ("watch", "", "v1", "a", "pods", "", "")),
        ("GET", "/api/v1/watch/namespaces/a/pods/x", ("watch", "", "v1", "a", "pods", "", "x")),
        ("GET", "/api/v1/proxy/namespaces/a/pods/x/y", ("proxy", "", "v1", "a", "pods", "", "x")),
        ("POST", "/api/v1/namespaces/a/pods", ("create", "", "v1", "a", "pods", "", "")),
        ("DELETE", "/api/v1/namespaces/a/pods/x", ("delete", "", "v1", "a", "pods", "", "x")),
        ("DELETE", "/api/v1/namespaces/a/pods", ("deletecollection", "", "v1", "a", "pods", "", "")),
        ("PATCH", "/api/v1/nodes/n1/status", ("patch", "", "v1", "", "nodes", "status", "n1")),
        ("TRACE", "/api/v1/nodes/n1", ("", "", "v1", "", "nodes", "", "n1")),
        (
            "GET",
            "/apis/kubevirt.io/v1/namespaces/a/virtualmachines/x",
            ("get", "kubevirt.io", "v1", "a", "virtualmachines", "", "x"),
        ),
        ("GET", "/apis/apps/v1/deployments", ("list", "apps", "v1", "", "deployments", "", "")),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", ("list", "", "v1", "", "pods", "", "x")),
        (
            "GET",
            "/api/v1/pods?watch=true&fieldSelector=metadata.name%3D%3Dx,status.phase%3DRunning",
            ("watch", "", "v1", "", "pods", "", "x"),
        ),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name!%3Dx", ("list", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/namespaces/a/pods/x%20y", ("get", "", "v1", "a", "pods", "", "x y")),
        (
            "GET",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            ("get", "rbac.authorization.k8s.io", "v1", "", "clusterroles", "", "system:node"),
        ),
    ];
    for (method, target, expected) in table {
        let info = info(method, target).unwrap();
        let found = (
            info.verb.as_str(),
            info.group.as_str(),
            info.version.as_str(),
            info.namespace.as_str(),
            info.resource.as_str(),
            info.subresource.as_str(),
            info.name.as_str(),
        );
        assert_eq!(found, *expected, "{method} {target}");
        assert!(info.is_resource);
    }
}

#[test]
fn other_paths_name_no_resource() {
    for path in [
        "/",
        "/api",
        "/api/",
        "/api/v1",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1",
        "/apis/apps/v1/",
        "/healthz",
        "/x/y/z/w",
    ] {
        let info = info("GET", path).unwrap();
        assert!(!info.is_resource, "{path}");
        assert_eq!((info.verb.as_str(), info.path.as_str()), ("get", path));
    }
}

#[test]
fn odd_paths_are_nowhere() {
    let nowhere = [
        "//",
        "//api/v1/pods",
        "/api//v1/pods",
        "/api/v1/pods//",
        "/api/v1/../pods",
        "/api/v1/%2e%2e/pods",
        "/./api",
        "/api/v1/namespaces/a%2fb/pods",
        "/api/v1/pods/%00",
        "/api/v1/watch",
    ];
    for path in nowhere {
        assert_eq!(info("GET", path), Err(PathError::Nowhere), "{path}");
    }
    for path in ["/api/v1/%zz", "/api/v1/%", "/api/v1/%f", "/api/v1/%ff"] {
        assert_eq!(info("GET", path), Err(PathError::Malformed), "{path}");
    }
    assert_eq!(info("GET", &"/a".repeat(5000)), Err(PathError::Nowhere));
}

#[test]
fn what_follows_a_subresource_is_kept_apart() {
    let info = info("GET", "/apis/g/v1/namespaces/a/vms/x/portforward/22/tcp").unwrap();
    assert_eq!(info.subresource, "portforward");
    assert_eq!(info.rest, ["22", "tcp"]);
    assert!(info.is_long_running());
}

proptest! {
    #[test]
    fn no_path_panics(path in "(/|%2f|%|[a-z.]|namespaces|api|apis|v1|watch|é|\\.\\.){0,20}", query in ".{0,40}") {
        for method in ["GET", "DELETE", "BREW"] {
            let read = RequestInfo::new(&Method::from_bytes(method.as_bytes()).unwrap(), &path, &Query::parse(&query));
            if let Ok(info) = read {
                for part in [&info.namespace, &info.name, &info.resource, &info.group, &info.subresource] {
                    prop_assert!(!part.contains('/') || query.contains("fieldSelector"));
                }
            }
        }
    }

    #[test]
    fn any_text_is_read(path in ".{0,60}") {
        let _ = RequestInfo::new(&Method::GET, &path, &Query::default());
    }
}
