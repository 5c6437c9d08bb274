#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use axum::body::Body;
use futures::TryStreamExt as _;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::client::ConfigExt as _;
use kube::{Api as KubeApi, Client, ResourceExt as _};
use serde_json::json;
use tower::ServiceExt as _;

use super::*;
use crate::builtin;

const WAIT: Duration = Duration::from_secs(20);

fn options(directory: &Path) -> Options {
    let token_file = directory.join("tokens.csv");
    std::fs::write(&token_file, "sesame,admin,1,\"system:masters\"\nweak,weak,2,\n").unwrap();
    Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        token_file: Some(token_file),
        audit_log: Some(directory.join("audit.log")),
        ..Options::new(directory.join("state"), "v1.33.0+ferrovirt.0.1.0")
    }
}

async fn start(directory: &Path) -> ApiServer {
    ApiServer::start(options(directory), Kinds::new(builtin::kinds())).await.unwrap()
}

/// Runs the server on its port until something is sent: the kubeconfig of its administrator, where to send, and its end.
fn run(
    server: ApiServer,
) -> (String, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<Result<(), ServeError>>) {
    let kubeconfig = std::fs::read_to_string(server.admin_kubeconfig()).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(server.run_until(async {
        let _ = stopped.await;
    }));
    (kubeconfig, stop, running)
}

/// Sends one request to the router, with the administrator's token unless headers say otherwise.
async fn ask(
    server: &ApiServer,
    request: http::request::Builder,
    body: &str,
) -> (StatusCode, http::HeaderMap, String) {
    let mut request = request.body(Body::from(body.to_owned())).unwrap();
    request.headers_mut().entry("authorization").or_insert("Bearer sesame".parse().unwrap());
    let response = server.router().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(server: &ApiServer, path: &str) -> (StatusCode, Value) {
    let (status, _, body) = ask(server, Request::get(path), "").await;
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn config_map(name: &str) -> ConfigMap {
    let data = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let metadata = kube::core::ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
    ConfigMap { metadata, data: Some(data), ..Default::default() }
}

/// What any client does with a ConfigMap.
async fn use_config_maps(client: Client) {
    let maps: KubeApi<ConfigMap> = KubeApi::namespaced(client, "default");
    let created = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    assert!(created.uid().is_some() && created.resource_version().is_some());
    assert_eq!(maps.get("a").await.unwrap().data.unwrap()["k"], "v");
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert!(list.items.iter().any(|map| map.name_any() == "a"));

    let version = list.metadata.resource_version.unwrap();
    // A controller puts another one there at any time.
    let only = WatchParams::default().fields("metadata.name=b");
    let mut events = Box::pin(maps.watch(&only, &version).await.unwrap());
    maps.create(&PostParams::default(), &config_map("b")).await.unwrap();
    let patch = json!({"data": {"k": "w"}});
    maps.patch("b", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let event = tokio::time::timeout(WAIT, events.try_next()).await.unwrap().unwrap().unwrap();
        seen.push(match event {
            WatchEvent::Added(map) => format!("added {}", map.name_any()),
            WatchEvent::Modified(map) => format!("modified {}", map.name_any()),
            WatchEvent::Deleted(map) => format!("deleted {}", map.name_any()),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(seen, ["added b", "modified b", "deleted b"]);
    match maps.get("nothing").await.unwrap_err() {
        kube::Error::Api(status) => assert_eq!((status.code, status.reason.as_str()), (404, "NotFound")),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_client_in_process_needs_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let identity = Identity::internal("test");
    use_config_maps(Client::new(server.client_service(identity), "default")).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_tls_is_known_by_its_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let (kubeconfig, stop, running) = run(server);
    let client = Client::try_from(config(&kubeconfig).await).unwrap();
    use_config_maps(client.clone()).await;
    assert_eq!(client.apiserver_version().await.unwrap().minor, "33");

    // A watch that is open when the server stops ends in order, and the stop does not wait for it.
    let maps: KubeApi<ConfigMap> = KubeApi::namespaced(client, "default");
    let mut events = Box::pin(maps.watch(&WatchParams::default(), "0").await.unwrap());
    let first = tokio::time::timeout(WAIT, events.try_next()).await.unwrap().unwrap();
    assert!(first.is_some());
    stop.send(()).unwrap();
    let rest = tokio::time::timeout(WAIT, events.try_collect::<Vec<_>>()).await.unwrap();
    assert!(rest.is_ok(), "{rest:?}");
    drop(maps);
    tokio::time::timeout(WAIT, running).await.unwrap().unwrap().unwrap();
}

async fn config(kubeconfig: &str) -> kube::Config {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()
}

/// A connection over HTTP/2 as the kubeconfig's user, and when it ends.
async fn connect(
    kubeconfig: &str,
) -> (hyper::client::conn::http2::SendRequest<Body>, tokio::task::JoinHandle<hyper::Result<()>>) {
    let config = config(kubeconfig).await;
    let mut tls = config.rustls_client_config().unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let address = config.cluster_url.authority().unwrap();
    let stream = tokio::net::TcpStream::connect(address.as_str()).await.unwrap();
    let name = address.host().to_owned().try_into().unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (requests, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    (requests, tokio::spawn(connection))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_uses_is_closed_and_one_with_a_watch_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.limits.idle = Duration::from_millis(400);
    let server = ApiServer::start(options, Kinds::new(builtin::kinds())).await.unwrap();
    let (kubeconfig, stop, running) = run(server);

    let (mut requests, mut ended) = connect(&kubeconfig).await;
    // Three times as long as a connection may be idle.
    let watch = Request::get("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=2");
    let watch = watch.header("host", "localhost").body(Body::empty()).unwrap();
    let response = requests.send_request(watch).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, http::Version::HTTP_2));
    let began = std::time::Instant::now();
    let events = response.into_body().collect();
    let events = tokio::select! {
        events = events => events.unwrap().to_bytes(),
        ended = &mut ended => panic!("the connection ended beneath a watch: {ended:?}"),
    };
    assert!(began.elapsed() > Duration::from_secs(1), "{events:?}");
    // Nothing more is asked, and the client does not close it.
    tokio::time::timeout(WAIT, ended).await.unwrap().unwrap().unwrap();
    assert!(requests.is_closed());

    stop.send(()).unwrap();
    tokio::time::timeout(WAIT, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_head_has_no_body_over_http_2_either() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let (kubeconfig, stop, running) = run(server);

    let (mut requests, connection) = connect(&kubeconfig).await;
    for (path, code) in [("/version", 200), ("/api/v1/namespaces/default/configmaps", 405), ("/nothing", 404)]
    {
        let head = Request::head(path).header("host", "localhost").body(Body::empty()).unwrap();
        let response = requests.send_request(head).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (code, http::Version::HTTP_2), "{path}");
        // A client resets a stream that brings one.
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "", "{path}");
    }

    drop(requests);
    stop.send(()).unwrap();
    tokio::time::timeout(WAIT, running).await.unwrap().unwrap().unwrap();
    tokio::time::timeout(WAIT, connection).await.unwrap().unwrap().unwrap();
}

/// What a path answers, once it is what is wanted.
async fn eventually(server: &ApiServer, path: &str, wanted: impl Fn(StatusCode, &Value) -> bool) -> Value {
    let began = std::time::Instant::now();
    loop {
        let (status, body) = get(server, path).await;
        if wanted(status, &body) {
            return body;
        }
        assert!(began.elapsed() < WAIT, "{path}: {status} {body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_secret_holds_the_token_of_its_service_account_until_either_goes() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let namespace = "/api/v1/namespaces/default";
    let make = async |plural: &str, object: Value| {
        let request =
            Request::post(format!("{namespace}/{plural}")).header("content-type", "application/json");
        let (status, _, body) = ask(&server, request, &object.to_string()).await;
        assert_eq!(status, 201, "{body}");
    };
    let secret = |name: &str, account: &str| {
        json!({
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token",
        })
    };
    make("serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    make("secrets", secret("robot-token", "robot")).await;
    make("secrets", secret("lost", "nobody")).await;

    let path = format!("{namespace}/secrets/robot-token");
    let filled = eventually(&server, &path, |_, secret| secret["data"]["token"].is_string()).await;
    let decoded = |key: &str| {
        use base64::Engine as _;
        let data = filled["data"][key].as_str().unwrap();
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(data).unwrap()).unwrap()
    };
    assert!(decoded("ca.crt").starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(decoded("namespace"), "default");
    let account = get(&server, &format!("{namespace}/serviceaccounts/robot")).await.1;
    let annotations = &filled["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/service-account.uid"], account["metadata"]["uid"]);

    let token = format!("Bearer {}", decoded("token"));
    let who = async || {
        let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("content-type", "application/json")
            .header("authorization", &token);
        let (status, _, body) = ask(&server, request, "{}").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        (status.as_u16(), body["status"]["userInfo"]["username"].clone())
    };
    assert_eq!(who().await, (201, json!("system:serviceaccount:default:robot")));
    let gone = |status: StatusCode, _: &Value| status == 404;
    eventually(&server, &format!("{namespace}/secrets/lost"), gone).await;

    // Another token in its place, as after a removal of the old one, is the only good one.
    let request = Request::patch(&path).header("content-type", "application/merge-patch+json");
    ask(&server, request, r#"{"data":{"token":"b3RoZXI="}}"#).await;
    assert_eq!(who().await.0, 401);
    let request = Request::delete(format!("{namespace}/serviceaccounts/robot"));
    assert_eq!(ask(&server, request, "").await.0, 200);
    eventually(&server, &path, gone).await;
    server.shutdown().await;
}

#[tokio::test]
async fn without_credentials_only_health_and_version_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    for (path, code) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/metrics", 401),
        ("/", 401),
        ("/api", 401),
        ("/apis", 401),
        ("/openapi/v2", 401),
        ("/api/v1/namespaces", 401),
        ("/api/v1/namespaces/default/secrets", 401),
        ("/nothing", 401),
        ("/version/x", 401),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = server.router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), code, "{path}");
        assert!(response.headers().contains_key("audit-id"));
        assert_eq!(response.headers()["cache-control"], "no-cache, private");
    }
    // Wrong credentials are refused even there.
    let (status, _, body) =
        ask(&server, Request::get("/version").header("authorization", "Bearer x"), "").await;
    assert_eq!(status, 401, "{body}");
    // Known, and without a right.
    let weak = || Request::get("/api/v1/namespaces/default/secrets").header("authorization", "Bearer weak");
    let (status, _, body) = ask(&server, weak(), "").await;
    assert_eq!(status, 403);
    let message = serde_json::from_str::<Value>(&body).unwrap()["message"].as_str().unwrap().to_owned();
    assert_eq!(
        message,
        "secrets is forbidden: User \"weak\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    server.shutdown().await;
}

#[tokio::test]
async fn default_objects_are_there_and_stay() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let server = start(directory.path()).await;
        let (status, namespaces) = get(&server, "/api/v1/namespaces").await;
        assert_eq!(status, 200);
        let names: Vec<_> = namespaces["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
        let (status, service) = get(&server, "/api/v1/namespaces/default/services/kubernetes").await;
        assert_eq!((status.as_u16(), service["spec"]["clusterIP"].as_str()), (200, Some("10.96.0.1")));
        let admin = "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin";
        assert_eq!(get(&server, admin).await.0, 200);
        server.shutdown().await;
    }
}

/// Method, path, headers, body; status and reason.
type Refused<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

#[tokio::test]
async fn every_refusal_is_a_status() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let table: &[Refused<'_>] = &[
        ("GET", "/nothing", &[], "", 404, "NotFound"),
        ("GET", "/apis/nothing", &[], "", 404, "NotFound"),
        ("GET", "/apis/nothing/v1/things", &[], "", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/nothings", &[], "", 404, "NotFound"),
        ("GET", "/api/v1/configmaps/x", &[], "", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/nodes", &[], "", 404, "NotFound"),
        ("GET", "/api/v1//configmaps", &[], "", 404, "NotFound"),
        ("GET", "/api/v1/%zz", &[], "", 400, "BadRequest"),
        ("GET", &format!("{maps}/x/nothing"), &[], "", 404, "NotFound"),
        ("POST", "/api/v1/configmaps", &[], "{}", 405, "MethodNotAllowed"),
        ("PUT", maps, &[], "{}", 405, "MethodNotAllowed"),
        ("OPTIONS", maps, &[], "", 405, "MethodNotAllowed"),
        ("POST", "/version", &[], "", 405, "MethodNotAllowed"),
        ("GET", maps, &[("accept", "application/vnd.kubernetes.protobuf")], "", 406, "NotAcceptable"),
        ("GET", &format!("{maps}?watch=1"), &[("accept", "text/html")], "", 406, "NotAcceptable"),
        ("POST", maps, &[("content-type", "application/cbor")], "{}", 415, "UnsupportedMediaType"),
        ("POST", maps, &[], "{", 400, "BadRequest"),
        ("POST", maps, &[("content-length", "4000000")], "{}", 413, "RequestEntityTooLarge"),
        ("PATCH", &format!("{maps}/x"), &[], "{}", 415, "UnsupportedMediaType"),
        ("GET", &format!("{maps}?limit=x"), &[], "", 400, "BadRequest"),
        ("POST", &format!("{maps}?dryRun=x"), &[], "{}", 422, "Invalid"),
    ];
    for (method, path, headers, body, code, reason) in table {
        let mut request = Request::builder().method(*method).uri(*path);
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        let (status, _, text) = ask(&server, request, body).await;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(
            (status.as_u16(), answer["reason"].as_str()),
            (*code, Some(*reason)),
            "{method} {path}: {text}"
        );
        assert_eq!(answer["kind"], "Status");
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(3 * 1024 * 1024));
    let (status, ..) = ask(&server, Request::post(maps), &large).await;
    assert_eq!(status, 413);
    server.shutdown().await;
}

#[tokio::test]
async fn forms_are_negotiated() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let path = "/api/v1/namespaces/default/services";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (_, _, body) = ask(&server, Request::get(path).header("accept", table), "").await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["kind"], "Table");
    assert_eq!(answer["rows"][0]["cells"][0], "kubernetes");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let (_, _, body) = ask(&server, Request::get(path).header("accept", partial), "").await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["kind"], "PartialObjectMetadataList");
    assert_eq!(answer["items"][0].get("spec"), None);
    let (_, headers, body) = ask(&server, Request::get(path).header("accept", "application/yaml"), "").await;
    assert_eq!(headers["content-type"], "application/yaml");
    assert_eq!(crate::decode::yaml(body.as_bytes()).unwrap().value["kind"], "ServiceList");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-yaml\ndata:\n  a: b\n";
    let request =
        Request::post("/api/v1/namespaces/default/configmaps").header("content-type", "application/yaml");
    let (status, _, body) = ask(&server, request, yaml).await;
    assert_eq!(status, 201, "{body}");
    server.shutdown().await;
}

#[tokio::test]
async fn discovery_and_documents_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    for (path, kind) in [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/api/v1", "APIResourceList"),
        ("/apis/apps", "APIGroup"),
        ("/apis/apps/v1", "APIResourceList"),
        ("/apis/authorization.k8s.io/v1", "APIResourceList"),
    ] {
        let (status, answer) = get(&server, path).await;
        assert_eq!((status.as_u16(), answer["kind"].as_str()), (200, Some(kind)), "{path}");
    }
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (_, headers, body) = ask(&server, Request::get("/apis").header("accept", aggregated), "").await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["kind"], "APIGroupDiscoveryList");
    assert!(headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    let tag = headers["etag"].clone();
    let again = Request::get("/apis").header("accept", aggregated).header("if-none-match", tag);
    assert_eq!(ask(&server, again, "").await.0, 304);

    let (status, root) = get(&server, "/openapi/v3").await;
    assert_eq!(status, 200);
    let url = root["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let (status, headers, _) = ask(&server, Request::get(url), "").await;
    assert_eq!(status, 200);
    assert!(headers["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(get(&server, "/openapi/v3/apis/nothing/v1").await.0, 404);
    assert_eq!(get(&server, "/openapi/v2").await.1["swagger"], "2.0");
    assert_eq!(
        get(&server, "/readyz?verbose").await.1,
        "[+]ping ok\n[+]store ok\n[+]shutdown ok\nreadyz check passed\n"
    );
    assert_eq!(get(&server, "/readyz/nothing").await.0, 404);
    let (status, metrics) = get(&server, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.as_str().unwrap().contains("apiserver_request_total"));
    server.shutdown().await;
}

#[tokio::test]
async fn reviews_are_answered_and_audited() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "secrets", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (token, allowed) in [("sesame", true), ("weak", false)] {
        let request =
            Request::post(path).header("authorization", format!("Bearer {token}")).header("audit-id", token);
        let (status, headers, body) = ask(&server, request, &review.to_string()).await;
        assert_eq!(status, 201, "{body}");
        assert_eq!(headers["audit-id"], token);
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["status"]["allowed"], allowed);
    }
    assert_eq!(get(&server, path).await.0, 405);
    server.shutdown().await;
    let log = std::fs::read_to_string(directory.path().join("audit.log")).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let weak = events.iter().find(|event| event["auditID"] == "weak").unwrap();
    assert_eq!(weak["user"]["username"], "weak");
    assert_eq!(weak["objectRef"]["resource"], "selfsubjectaccessreviews");
    assert!(!log.contains("resourceAttributes"));
}

/// A patch is no way to make what one may not create.
#[tokio::test]
async fn an_apply_creates_only_for_those_who_may_create() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rule = |verbs: &[&str], names: &[&str]| json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs, "resourceNames": names});
    let role = json!({"metadata": {"name": "r"},
        "rules": [rule(&["patch", "get"], &[]), rule(&["create"], &["mine"])]});
    let binding = json!({
        "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "weak"}],
    });
    for (plural, object) in [("roles", role), ("rolebindings", binding)] {
        let request = Request::post(format!("{rbac}/{plural}"));
        assert_eq!(ask(&server, request, &object.to_string()).await.0, StatusCode::CREATED);
    }
    let apply = async |name: &str, token: &str| {
        let path = format!("/api/v1/namespaces/default/configmaps/{name}?fieldManager=m");
        let request = Request::patch(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/apply-patch+yaml");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        let (status, _, body) = ask(&server, request, &body).await;
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, error) = apply("theirs", "weak").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        error["message"],
        "configmaps \"theirs\" is forbidden: User \"weak\" cannot create resource \"configmaps\" in API group \"\" in the \
         namespace \"default\""
    );
    assert_eq!(get(&server, "/api/v1/namespaces/default/configmaps/theirs").await.0, StatusCode::NOT_FOUND);
    assert_eq!(apply("mine", "weak").await.0, StatusCode::CREATED);
    assert_eq!(apply("theirs", "sesame").await.0, StatusCode::CREATED);
    assert_eq!(apply("theirs", "weak").await.0, StatusCode::OK);
    server.shutdown().await;
}

#[tokio::test]
async fn a_watch_may_be_asked_to_last_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let seconds = i64::MAX;
    let request = Request::get(format!("/api/v1/pods?watch=true&timeoutSeconds={seconds}"))
        .header("authorization", "Bearer sesame")
        .body(Body::empty())
        .unwrap();
    assert_eq!(server.router().oneshot(request).await.unwrap().status(), StatusCode::OK);
    server.shutdown().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_state_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let second = ApiServer::start(options(directory.path()), Kinds::new(builtin::kinds())).await;
    assert!(matches!(second, Err(StartError::Store(OpenError::Locked { .. }))), "{second:?}");
    server.shutdown().await;
    start(directory.path()).await.shutdown().await;
}

mod random {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_request_makes_a_server_fail() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let server = runtime.block_on(start(directory.path()));
        let path = "(/|/api/v1|/apis/apps/v1|/namespaces|/default|/configmaps|/pods|/x|/watch|/status|%2e|%|\\.\\.|//){1,8}";
        let query = "(watch=|limit=|continue=|resourceVersion=|labelSelector=|fieldSelector=|dryRun=|&|=|1|a|!|%20|,|All|timeoutSeconds=1){0,8}";
        let method = prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
        let result = runner.run(&(path, query, method, "[ -~]{0,30}"), |(path, query, method, text)| {
            let uri = format!("{path}?{query}");
            let Ok(uri) = uri.parse::<http::Uri>() else { return Ok(()) };
            let request = Request::builder()
                .method(method)
                .uri(uri)
                .header("authorization", "Bearer sesame")
                .header("accept", &text)
                .header("content-type", "application/merge-patch+json")
                .body(Body::from(text))
                .unwrap();
            let response = runtime.block_on(server.router().oneshot(request)).unwrap();
            prop_assert!(response.status().as_u16() < 500, "{}", response.status());
            Ok(())
        });
        runtime.block_on(server.shutdown());
        result.unwrap();
    }
}

/// A Pod as a launcher's is: an image volume, a sidecar among the init containers, and a grace of its own.
fn launcher_pod(name: &str) -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 40,
            "restartPolicy": "Never",
            "initContainers": [
                {"name": "guest-console-log", "image": "launcher", "restartPolicy": "Always"},
                {"name": "volumekernel-boot-volume", "image": "kernels:1"},
            ],
            "containers": [{
                "name": "compute", "image": "launcher", "ports": [{"name": "control", "containerPort": 8443}],
                "volumeMounts": [{"name": "kernel", "mountPath": "/var/run/kubevirt-kernel-boot", "readOnly": true}],
            }],
            "volumes": [{"name": "kernel", "image": {"reference": "kernels:1", "pullPolicy": "Always"}}],
            "readinessGates": [{"conditionType": "kubevirt.io/virtual-machine-unpaused"}],
        },
    }))
    .unwrap()
}

#[tokio::test]
async fn a_pod_is_bound_seen_by_its_node_and_ended_by_it() {
    use k8s_openapi::api::core::v1::{Binding, Pod};

    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let client = Client::new(server.client_service(Identity::internal("test")), "default");
    let pods: KubeApi<Pod> = KubeApi::namespaced(client, "default");
    let on_node = WatchParams::default().fields("spec.nodeName=here");
    let mut events = Box::pin(pods.watch(&on_node, "0").await.unwrap());
    let pod = pods.create(&PostParams::default(), &launcher_pod("l")).await.unwrap();
    let spec = pod.spec.as_ref().unwrap();
    let volume = &spec.volumes.as_ref().unwrap()[0];
    assert_eq!(volume.image.as_ref().unwrap().reference.as_deref(), Some("kernels:1"));
    assert!(volume.empty_dir.is_none());
    let sidecar = &spec.init_containers.as_ref().unwrap()[0];
    assert_eq!(sidecar.restart_policy.as_deref(), Some("Always"));

    let binding: Binding = serde_json::from_value(json!({
        "metadata": {"name": "l"}, "target": {"kind": "Node", "name": "here"},
    }))
    .unwrap();
    let bind = async || pods.create_subresource("binding", "l", &PostParams::default(), &binding).await;
    let bound: kube::core::Status = bind().await.unwrap();
    assert!(bound.is_success());
    match tokio::time::timeout(WAIT, events.try_next()).await.unwrap().unwrap().unwrap() {
        WatchEvent::Added(pod) => {
            assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("here"));
            let condition = &pod.status.unwrap().conditions.unwrap()[0];
            assert_eq!((condition.type_.as_str(), condition.status.as_str()), ("PodScheduled", "True"));
        }
        other => panic!("{other:?}"),
    }
    let again: Result<kube::core::Status, _> = bind().await;
    match again.unwrap_err() {
        kube::Error::Api(status) => assert_eq!(
            (status.code, status.message.as_str()),
            (
                409,
                "Operation cannot be fulfilled on pods/binding \"l\": pod l is already assigned to node \"here\""
            )
        ),
        other => panic!("{other}"),
    }

    let running =
        json!({"status": {"phase": "Running", "podIP": "127.88.0.1", "podIPs": [{"ip": "127.88.0.1"}]}});
    pods.patch_status("l", &PatchParams::default(), &Patch::Merge(&running)).await.unwrap();
    let deleted = pods.delete("l", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(deleted.metadata.deletion_timestamp.is_some());
    let pod = pods.get("l").await.unwrap();
    assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(40));
    // The status may still be written, and the node has the last word.
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("l", &PatchParams::default(), &Patch::Merge(&ended)).await.unwrap();
    let uid = pod.metadata.uid.clone();
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(kube::api::Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    };
    pods.delete("l", &now).await.unwrap();
    assert!(pods.get_opt("l").await.unwrap().is_none());

    // What no node has is gone at once.
    pods.create(&PostParams::default(), &launcher_pod("m")).await.unwrap();
    pods.delete("m", &DeleteParams::default()).await.unwrap();
    assert!(pods.get_opt("m").await.unwrap().is_none());

    let (_, core) = get(&server, "/api/v1").await;
    let names: Vec<_> =
        core["resources"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    for name in ["pods/binding", "pods/status", "pods/log", "nodes/status"] {
        assert!(names.contains(&name), "{name}");
    }
    assert_eq!(get(&server, "/api/v1/namespaces/kube-node-lease").await.0, 200);
    server.shutdown().await;
}

#[tokio::test]
async fn roles_that_say_so_are_brought_up_to_date_and_others_are_left() {
    let directory = tempfile::tempdir().unwrap();
    let role = |name: &str, verbs: &[&str], autoupdate: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {
                "name": name, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": autoupdate},
            },
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}],
        })
    };
    for verbs in [&["get"][..], &["get", "list"]] {
        let extra_objects = vec![role("kept", verbs, "true"), role("left", verbs, "false")];
        let options = Options { extra_objects, ..options(directory.path()) };
        ApiServer::start(options, Kinds::new(builtin::kinds())).await.unwrap().shutdown().await;
    }
    let server = start(directory.path()).await;
    let verbs = async |name: &str| {
        let (_, role) =
            get(&server, &format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}")).await;
        let rules = role["rules"].as_array().unwrap().clone();
        rules.iter().flat_map(|rule| rule["verbs"].as_array().unwrap().clone()).collect::<Vec<_>>()
    };
    // What is missing is added as a rule of its own, as Kubernetes does.
    assert_eq!(verbs("kept").await, ["get", "get", "list"]);
    assert_eq!(verbs("left").await, ["get"]);
    server.shutdown().await;
}

#[tokio::test]
async fn what_there_is_one_of_is_not_made_beside_another() {
    let directory = tempfile::tempdir().unwrap();
    let refusal = || crate::status::ApiError::new(400, "", "there is one");
    // A kind of which there is one, and what the server begins with.
    let start = async |name: &str| {
        let kinds = builtin::kinds().into_iter().map(|mut kind| {
            if kind.names.kind == "IngressClass" {
                kind.refuses_another = Some(refusal);
            }
            kind
        });
        let class = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name},
            "spec": {"controller": "example.com/a"},
        });
        let options = Options { extra_objects: vec![class], ..options(directory.path()) };
        ApiServer::start(options, Kinds::new(kinds)).await.unwrap()
    };
    start("first").await.shutdown().await;
    let server = start("second").await;
    let (_, classes) = get(&server, "/apis/networking.k8s.io/v1/ingressclasses").await;
    let names: Vec<_> =
        classes["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["first"]);
    server.shutdown().await;
}

#[tokio::test]
async fn somebody_else_answers_a_group_and_a_subresource() {
    use crate::http::extension::{self, Call, Extends, Extension};
    use crate::kind::ForeignGroup;

    let directory = tempfile::tempdir().unwrap();
    let echo = |mut call: Call| async move {
        let body = call.body(10).await?;
        if body == "panic" {
            panic!("as asked");
        }
        let said = json!({
            "user": call.identity.user, "name": call.info.name, "sub": call.info.subresource, "body": body.len(),
            "x": call.query.text("x"),
        });
        Ok(extension::json(StatusCode::ACCEPTED, &said))
    };
    let forever = |call: Call| async move {
        let lines = futures::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from("line\n"))]);
        let rest = futures::stream::pending();
        Ok(call.stream("text/plain", futures::StreamExt::chain(lines, rest)))
    };
    let subresource = |name: &str| Extends::Subresource {
        group: String::new(),
        resource: "pods".to_owned(),
        subresource: name.to_owned(),
    };
    let options = Options {
        extensions: vec![
            Extension { extends: Extends::Group("acts.example.com".to_owned()), handler: Arc::new(echo) },
            Extension { extends: subresource("log"), handler: Arc::new(forever) },
        ],
        ..options(directory.path())
    };
    let kinds = Kinds::new(builtin::kinds()).with_foreign(ForeignGroup {
        name: "acts.example.com",
        versions: &["v1"],
        resources: &["things/start"],
    });
    let server = ApiServer::start(options, kinds).await.unwrap();
    let start = "/apis/acts.example.com/v1/namespaces/default/things/a/start";
    let put = async |body: &'static str| ask(&server, Request::put(format!("{start}?x=1")), body).await;
    let (status, _, body) = put("four").await;
    assert_eq!(status, 202, "{body}");
    let said: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(said, json!({"user": "admin", "name": "a", "sub": "start", "body": 4, "x": "1"}));
    let (status, _, body) = put("more than ten bytes").await;
    let failure: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status.as_u16(), &failure["reason"]), (413, &json!("RequestEntityTooLarge")));
    assert_eq!(put("panic").await.0, 500);

    // Authorization comes first, and there is nothing beside what is served.
    let weak = Request::put(start).header("authorization", "Bearer weak");
    let (status, _, body) = ask(&server, weak, "").await;
    assert_eq!(status, 403);
    let message = "things.acts.example.com \\\"a\\\" is forbidden: User \\\"weak\\\" cannot update resource \\\"things/start\\\" in \
                   API group \\\"acts.example.com\\\" in the namespace \\\"default\\\"";
    assert!(body.contains(message), "{body}");
    assert_eq!(get(&server, "/apis/acts.example.com/v2/namespaces/default/things/a/start").await.0, 404);
    assert_eq!(get(&server, "/apis/acts.example.com/v1").await.1["resources"][0]["name"], "things/start");
    assert_eq!(get(&server, "/api/v9/namespaces/default/pods/p/log").await.0, 404);
    assert_eq!(get(&server, "/api/v1/pods/p/log").await.0, 404);

    // A stream ends with the server.
    let mut request = Request::get("/api/v1/namespaces/default/pods/p/log").body(Body::empty()).unwrap();
    request.headers_mut().insert("authorization", "Bearer sesame".parse().unwrap());
    let mut body = server.router().oneshot(request).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "line\n");
    server.shutdown().await;
    assert!(tokio::time::timeout(WAIT, body.frame()).await.unwrap().is_none());
}

#[test]
fn the_administrators_file_is_renewed_with_the_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let names = ServerNames { host_names: vec!["host".to_owned()], addresses: Vec::new() };
    let now = jiff::Timestamp::now();
    let authorities = Authorities::open_or_create(directory.path(), &names, now).unwrap();
    let admin = AdminFile {
        path: directory.path().join("admin.kubeconfig"),
        server_url: "https://127.0.0.1:6443".to_owned(),
        cluster_name: "here".to_owned(),
    };
    admin.write(&authorities).unwrap();
    let text = || std::fs::read_to_string(&admin.path).unwrap();
    let first = text();
    renew_once(&authorities, &admin, now);
    assert_eq!(text(), first);
    renew_once(&authorities, &admin, now + jiff::SignedDuration::from_hours(360 * 24));
    assert_ne!(text(), first);
    assert_eq!(text(), authorities.admin_kubeconfig("https://127.0.0.1:6443", "here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_says_when_a_watch_ends() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let mut request = Request::get("/api/v1/pods?watch=1&resourceVersion=0").body(Body::empty()).unwrap();
    request.headers_mut().insert("authorization", "Bearer sesame".parse().unwrap());
    request.headers_mut().insert("audit-id", "mine".parse().unwrap());
    let body = server.router().oneshot(request).await.unwrap().into_body();
    let stages = || -> Vec<String> {
        let text = std::fs::read_to_string(directory.path().join("audit.log")).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mine = events.filter(|event| event["auditID"] == "mine");
        mine.map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
    };
    let until = async |wanted: &[&str]| {
        let reached = async {
            while stages() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(WAIT, reached).await.is_ok(), "last seen {:?}", stages());
    };
    until(&["ResponseStarted"]).await;
    drop(body);
    until(&["ResponseStarted", "ResponseComplete"]).await;
    server.shutdown().await;
}
