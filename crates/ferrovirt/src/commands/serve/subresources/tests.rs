#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use apiserver::kind::Kinds;
use apiserver::server::{ApiServer, Options};
use kube::api::PostParams;
use serde_json::{Value, json};

use super::super::metrics::Created;
use super::super::{installation, kinds};
use super::*;

async fn start(directory: &Path) -> ApiServer {
    let options = Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        extra_objects: installation::objects("v0.1.0"),
        extensions: vec![extension(None, Connections::default())],
        ..Options::new(directory.join("state"), "v1.33.0+ferrovirt.0.1.0")
    };
    let kinds = apiserver::builtin::kinds().into_iter().chain(kinds::kinds(false, &Created::default()));
    ApiServer::start(options, Kinds::new(kinds).with_foreign(DISCOVERY)).await.unwrap()
}

/// What a request is answered with: the code, and the body (a text where it is no JSON).
async fn ask(server: &ApiServer, who: Identity, method: &str, path: &str, body: &str) -> (u16, Value) {
    use tower::ServiceExt as _;

    let request = http::Request::builder().method(method).uri(path);
    let request = request.body(extension::Body::from(body.to_owned())).unwrap();
    let response = server.client_service(who).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (head.status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn admin() -> Identity {
    Identity::internal("admin")
}

async fn put(server: &ApiServer, action: &str, body: &str) -> (u16, Value) {
    let path = format!("/apis/{GROUP}/v1/namespaces/default/virtualmachines/tiny/{action}");
    ask(server, admin(), "PUT", &path, body).await
}

/// A refusal as `code reason message`.
fn words((code, status): &(u16, Value)) -> String {
    assert_eq!(status["kind"], "Status", "{status}");
    assert_eq!((&status["status"], &status["code"]), (&json!("Failure"), &json!(code)));
    format!(
        "{code} {} {}",
        status["reason"].as_str().unwrap_or_default(),
        status["message"].as_str().unwrap()
    )
}

fn spec() -> Value {
    json!({"domain": {
        "devices": {}, "memory": {"guest": "128Mi"},
        "firmware": {"kernelBoot": {"container": {"image": "localhost/k", "kernelPath": "/vmlinuz"}}},
    }})
}

async fn make_machine(server: &ApiServer, strategy: &str) -> Api<VirtualMachine> {
    let client = Client::new(server.client_service(admin()), "default");
    let machines: Api<VirtualMachine> = Api::namespaced(client, "default");
    let machine: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "tiny", "namespace": "default"},
        "spec": {"runStrategy": strategy, "template": {"spec": spec()}},
    }))
    .unwrap();
    machines.create(&PostParams::default(), &machine).await.unwrap();
    machines
}

#[tokio::test]
async fn a_machine_is_started_and_stopped_by_its_strategy() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    assert_eq!(
        words(&put(&server, "start", "").await),
        "404 NotFound virtualmachine.kubevirt.io \"tiny\" not found"
    );
    let machines = make_machine(&server, "Halted").await;
    let strategy = async || machines.get("tiny").await.unwrap().spec.run_strategy.unwrap();

    // Only the checks, then in earnest.
    assert_eq!(put(&server, "start", r#"{"dryRun": ["All"]}"#).await, (202, json!("")));
    assert_eq!(strategy().await, "Halted");
    assert_eq!(put(&server, "start", "").await, (202, json!("")));
    assert_eq!(strategy().await, "Always");
    let refusal = put(&server, "start", "{}").await;
    assert_eq!(
        words(&refusal),
        "409 Conflict Operation cannot be fulfilled on virtualmachine.kubevirt.io \"tiny\": Always does not support \
         manual start requests"
    );
    let details = json!({"name": "tiny", "group": "kubevirt.io", "kind": "virtualmachine"});
    assert_eq!(refusal.1["details"], details);
    // The older version is the same.
    let older = format!("/apis/{GROUP}/v1alpha3/namespaces/default/virtualmachines/tiny/start");
    assert_eq!(ask(&server, admin(), "PUT", &older, "{}").await, refusal);
    // YAML is as good as JSON, and what is neither is refused.
    assert_eq!(put(&server, "stop", "gracePeriod: 5\ndryRun: []\n").await, (202, json!("")));
    assert_eq!(strategy().await, "Halted");
    for garbage in ["{", "[1]", "gracePeriod: soon"] {
        let text = words(&put(&server, "stop", garbage).await);
        assert!(
            text.starts_with("400 BadRequest Can not unmarshal Request body to struct, error: "),
            "{text}"
        );
    }
    let unknown = put(&server, "start", r#"{"dryRun": ["Some"]}"#).await;
    assert!(words(&unknown).starts_with("500 InternalError Internal error occurred: "), "{unknown:?}");
    server.shutdown().await;
}

#[tokio::test]
async fn requests_are_left_in_the_status_and_instances_of_others_alone() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let machines = make_machine(&server, "Manual").await;
    assert_eq!(put(&server, "start", r#"{"paused": true}"#).await, (202, json!("")));
    let requests = machines.get("tiny").await.unwrap().status.unwrap().state_change_requests;
    assert_eq!(json!(requests), json!([{"action": "Start", "data": {"paused": "true"}}]));
    assert_eq!(
        words(&put(&server, "start", "").await),
        "500 InternalError Internal error occurred: unable to complete request: stop/start already underway"
    );

    // An instance of that name which something else made does not count. (Its owner is there, or the instance would be
    // collected.)
    let other: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "other", "namespace": "default"},
        "spec": {"runStrategy": "Manual", "template": {"spec": spec()}},
    }))
    .unwrap();
    let other = machines.create(&PostParams::default(), &other).await.unwrap();
    let client = Client::new(server.client_service(admin()), "default");
    let instances: Api<VirtualMachineInstance> = Api::namespaced(client, "default");
    let owner = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "other", "uid": other.metadata.uid,
        "controller": true,
    });
    let instance: VirtualMachineInstance = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "tiny", "namespace": "default", "ownerReferences": [owner]}, "spec": spec(),
    }))
    .unwrap();
    instances.create(&PostParams::default(), &instance).await.unwrap();
    let mut current = instances.get("tiny").await.unwrap();
    let not_running =
        "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"tiny\": VM is not running";
    assert_eq!(words(&put(&server, "stop", "").await), format!("409 Conflict {not_running}"));
    // Its own counts: the grace is patched, and the request names it.
    let machine = machines.get("tiny").await.unwrap();
    let owners = current.metadata.owner_references.as_mut().unwrap();
    owners[0].name = "tiny".to_owned();
    owners[0].uid = machine.metadata.uid.clone().unwrap();
    let controller = Identity::service_account(components::NAMESPACE, components::CONTROLLER);
    let as_controller: Api<VirtualMachineInstance> =
        Api::namespaced(Client::new(server.client_service(controller), "default"), "default");
    let kept = as_controller.replace("tiny", &PostParams::default(), &current).await.unwrap();
    assert_eq!(put(&server, "stop", r#"{"gracePeriod": 3}"#).await, (202, json!("")));
    let requests = machines.get("tiny").await.unwrap().status.unwrap().state_change_requests;
    assert_eq!(json!(requests), json!([{"action": "Stop", "uid": kept.metadata.uid}]));
    assert_eq!(instances.get("tiny").await.unwrap().spec.termination_grace_period_seconds, Some(3));
    server.shutdown().await;
}

#[tokio::test]
async fn a_machine_is_expanded_to_itself() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let path = format!("/apis/{GROUP}/v1/namespaces/default/virtualmachines/tiny/expand-spec");
    let missing = ask(&server, admin(), "GET", &path, "").await;
    assert_eq!(words(&missing), "404 NotFound virtualmachine.kubevirt.io \"tiny\" not found");
    make_machine(&server, "Halted").await;
    let (code, expanded) = ask(&server, admin(), "GET", &path, "").await;
    let stored = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines/tiny";
    let stored = ask(&server, admin(), "GET", stored, "").await.1;
    assert_eq!((code, &expanded), (200, &stored));
    assert_eq!(expanded["kind"], "VirtualMachine");

    let path = format!("/apis/{GROUP}/v1/namespaces/default/expand-vm-spec");
    let put = async |body: &str| ask(&server, admin(), "PUT", &path, body).await;
    assert_eq!(put(&stored.to_string()).await, (200, stored));
    assert_eq!(words(&put("").await), "400 BadRequest empty request body");
    assert!(words(&put("{").await).starts_with("400 BadRequest Can not unmarshal Request body"));
    let refusal = put(r#"{"kind": "VirtualMachine", "spec": {"template": 1}}"#).await;
    assert_eq!(words(&refusal), "400 BadRequest Object is not a valid VirtualMachine");
    let cause = "spec.template in body must be of type object: \"integer\"";
    assert_eq!(refusal.1["details"]["causes"], json!([{ "message": cause }]));
    let machine = |namespace: &str, more: Value| {
        let mut machine = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "other", "namespace": namespace}, "spec": {"template": {"spec": spec()}},
        });
        machine["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        machine.to_string()
    };
    let elsewhere = put(&machine("kube-system", json!({}))).await;
    assert_eq!(words(&elsewhere), "400 BadRequest VM namespace must be empty or default");
    assert_eq!(put(&machine("", json!({"runStrategy": "Manual"}))).await.0, 200);
    let typed = put(&machine("default", json!({"instancetype": {"name": "large"}}))).await;
    assert_eq!(words(&typed), "400 BadRequest spec.instancetype is not supported by ferrovirt");
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_off_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let ask = async |method: &str, path: &str, body: &str| {
        ask(&server, admin(), method, &format!("/apis/{GROUP}/v1/{path}"), body).await
    };
    let graph = "400 BadRequest ObjectGraph feature gate not enabled: Unable to return object graph.";
    let hotplug =
        "400 BadRequest Enable DeclarativeHotplugVolumes or HotplugVolumes feature gate to use this API.";
    let sev = "400 BadRequest 'WorkloadEncryptionSEV' feature gate is not enabled";
    let dump = "400 BadRequest Unable to memory dump because HotplugVolumes feature gate is not enabled.";
    let missing = "404 NotFound virtualmachineinstance.kubevirt.io \"tiny\" not found";
    let no_machine = "404 NotFound virtualmachine.kubevirt.io \"tiny\" not found";
    for (method, path, expected) in [
        ("GET", "virtualmachines/tiny/objectgraph", graph),
        ("GET", "virtualmachineinstances/tiny/objectgraph", graph),
        ("PUT", "virtualmachines/tiny/addvolume", hotplug),
        ("PUT", "virtualmachineinstances/tiny/removevolume", hotplug),
        ("GET", "virtualmachineinstances/tiny/sev/fetchcertchain", sev),
        ("PUT", "virtualmachineinstances/tiny/sev/setupsession", sev),
        ("PUT", "virtualmachineinstances/tiny/softreboot", missing),
        ("PUT", "virtualmachineinstances/tiny/freeze", missing),
        ("PUT", "virtualmachineinstances/tiny/unfreeze", missing),
        ("GET", "virtualmachineinstances/tiny/vsock", missing),
        ("GET", "virtualmachineinstances/tiny/usbredir", missing),
        ("PUT", "virtualmachineinstances/tiny/backup", missing),
        ("PUT", "virtualmachineinstances/tiny/redefine-checkpoint", missing),
        ("PUT", "virtualmachineinstances/tiny/evacuate/cancel", "400 BadRequest No body"),
        ("PUT", "virtualmachines/tiny/evacuate/cancel", "400 BadRequest No body"),
        ("PUT", "virtualmachines/tiny/migrate", no_machine),
        ("PUT", "virtualmachines/tiny/memorydump", dump),
        ("PUT", "virtualmachines/tiny/removememorydump", no_machine),
    ] {
        let refusal = ask(method, &format!("namespaces/default/{path}"), "").await;
        assert_eq!(words(&refusal), expected, "{path}");
        let other = if method == "PUT" { "GET" } else { "PUT" };
        assert_eq!(ask(other, &format!("namespaces/default/{path}"), "").await.0, 405, "{path}");
    }
    for (resource, expected) in [("virtualmachineinstances", missing), ("virtualmachines", no_machine)] {
        let refusal = ask("PUT", &format!("namespaces/default/{resource}/tiny/evacuate/cancel"), "{}").await;
        assert_eq!(words(&refusal), expected);
    }
    make_machine(&server, "Halted").await;
    let conflict = "409 Conflict Operation cannot be fulfilled on virtualmachine.kubevirt.io \"tiny\":";
    let no_dump = "can't remove memory dump association for vm tiny, no association found";
    for (path, expected) in [
        ("migrate", missing.to_owned()),
        ("removememorydump", format!("{conflict} {no_dump}")),
        ("evacuate/cancel", format!("{conflict} VMI is not started")),
    ] {
        let refusal = ask("PUT", &format!("namespaces/default/virtualmachines/tiny/{path}"), "{}").await;
        assert_eq!(words(&refusal), expected, "{path}");
    }
    for path in ["migrate", "evacuate/cancel"] {
        let garbage = ask("PUT", &format!("namespaces/default/virtualmachines/tiny/{path}"), "[").await;
        assert!(words(&garbage).starts_with("400 BadRequest Can not unmarshal Request body"), "{garbage:?}");
    }
    let text = json!("Unable to dump profiler results. \"ClusterProfiler\" feature gate must be enabled");
    assert_eq!(ask("GET", "dump-cluster-profiler", "").await, (403, text));
    for what in ["guestosinfo", "userlist", "filesystemlist"] {
        let path = format!("namespaces/default/virtualmachineinstances/tiny/{what}");
        let text = "virtualmachineinstance.kubevirt.io \"tiny\" not found";
        assert_eq!(ask("GET", &path, "").await, (500, json!(text)));
    }
    server.shutdown().await;
}

/// It may have ended, with its launcher; its phase is not looked at.
#[tokio::test]
async fn an_instance_that_cannot_be_reached_is_not_dialled() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let controller = Identity::service_account(components::NAMESPACE, components::CONTROLLER);
    let instances: Api<VirtualMachineInstance> =
        Api::namespaced(Client::new(server.client_service(controller), "default"), "default");
    let instance: VirtualMachineInstance = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "tiny", "namespace": "default"}, "spec": spec(),
    }))
    .unwrap();
    instances.create(&PostParams::default(), &instance).await.unwrap();
    let ended = json!({"status": {"phase": "Succeeded", "interfaces": [{"name": "default"}]}});
    instances.patch("tiny", &PatchParams::default(), &Patch::Merge(ended)).await.unwrap();
    let path = format!("/apis/{GROUP}/v1/namespaces/default/virtualmachineinstances/tiny/portforward/22");
    assert_eq!(
        words(&ask(&server, admin(), "GET", &path, "").await),
        "500 InternalError Internal error occurred: dialing VM: this server runs no machines, since it was started \
         with `--api-only`"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn only_who_may_start_machines_does() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let path = format!("/apis/{GROUP}/v1/namespaces/default/virtualmachines/tiny/start");
    let who = |user: &str| Identity {
        user: user.to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        ..Identity::default()
    };
    let forbidden = ask(&server, who("weak"), "PUT", &path, "").await;
    assert_eq!(
        words(&forbidden),
        "403 Forbidden virtualmachines.subresources.kubevirt.io \"tiny\" is forbidden: User \"weak\" cannot update \
         resource \"virtualmachines/start\" in API group \"subresources.kubevirt.io\" in the namespace \"default\""
    );
    // An editor of the namespace may start a machine.
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "editors"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kubevirt.io:edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "strong"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(ask(&server, admin(), "POST", bindings, &binding.to_string()).await.0, 201);
    make_machine(&server, "Halted").await;
    assert_eq!(ask(&server, who("strong"), "PUT", &path, "").await.0, 202);

    assert_eq!(ask(&server, admin(), "GET", &path, "").await.0, 405);
    for path in
        ["virtualmachines/tiny/dance", "virtualmachines/tiny", "virtualmachines/tiny/start/now", "version"]
    {
        let path = format!("/apis/{GROUP}/v1/namespaces/default/{path}");
        assert_eq!(ask(&server, admin(), "PUT", &path, "").await.0, 404, "{path}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn the_group_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path()).await;
    let user = || Identity {
        user: "anybody".to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        ..Identity::default()
    };
    let get = async |path: &str| ask(&server, user(), "GET", &format!("/apis/{GROUP}{path}"), "").await;
    assert_eq!(get("").await.1["preferredVersion"]["groupVersion"], "subresources.kubevirt.io/v1");
    for version in ["v1", "v1alpha3"] {
        let (_, list) = get(&format!("/{version}")).await;
        let names: Vec<_> =
            list["resources"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
        assert_eq!(names, DISCOVERY.resources);
        let (code, document) = get(&format!("/{version}/version")).await;
        assert_eq!((code, &document["gitVersion"]), (200, &json!(concat!("v", env!("CARGO_PKG_VERSION")))));
    }
    assert_eq!(get("/v1/guestfs").await.1["guestfs"]["status"], "failed");
    let path = format!("/apis/{GROUP}/v1/healthz");
    let (code, health) = ask(&server, admin(), "GET", &path, "").await;
    assert_eq!((code, &health["apiserver"]["connectivity"]), (200, &json!("ok")), "{health}");
    assert_eq!(health["apiserver"]["version"]["minor"], "33");
    assert!(health["config-resource-version"].as_str().is_some(), "{health}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_name_that_fits_into_no_path_is_nobodys() {
    let asked = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("asked"))
    });
    let machines =
        kube::Api::<manifest::types::VirtualMachine>::namespaced(kube::Client::new(asked, "a"), "a");
    for name in ["\t", "\u{1e}\u{93};", "a\nb"] {
        assert!(matches!(named(&machines, name).await, Ok(None)), "{name:?}");
    }
    assert!(named(&machines, "vm").await.is_err(), "the server is asked for what may be there");
}
