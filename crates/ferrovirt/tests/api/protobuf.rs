//! Bodies in Kubernetes' protobuf, which kubectl sends since 1.33 for built-in kinds: an object that came so is the one
//! that comes as JSON.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::client::Credentials;
use crate::server::{Server, World, finish, finish_with_input, kubectls};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// `create` with these words makes one object of a kind that is served.
const CREATED: [&str; 21] = [
    "configmap c --from-literal=a=b --from-literal=empty=",
    "secret generic s --from-literal=k=v",
    "serviceaccount robot",
    "deployment web --image=nginx --replicas=0 --port=80",
    "service clusterip cluster-ip --tcp=80:8080",
    "service nodeport node-port --tcp=80:http",
    "service externalname external --external-name=example.org",
    "role reader --verb=get,list --resource=pods --resource-name=one",
    "rolebinding binding --role=reader --serviceaccount=default:robot --user=me",
    "clusterrole nodes --verb=get --resource=nodes/status,deployments.apps",
    "clusterrole paths --verb=get --non-resource-url=/metrics",
    "clusterrole sum --aggregation-rule=sum=true",
    "clusterrolebinding global --clusterrole=nodes --group=all",
    "quota limits --hard=pods=3,requests.cpu=500m --scopes=BestEffort",
    "priorityclass zero --value=0 --description=nothing",
    "priorityclass below --value=-5 --preemption-policy=Never",
    "job once --image=busybox -- sleep 1",
    "poddisruptionbudget least --selector=app=web --min-available=1",
    "poddisruptionbudget most --selector=app=web --max-unavailable=50%",
    "namespace other",
    "token robot --duration=10m",
];

/// The objects, without what no two objects share.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let list: Value = serde_json::from_str(text).unwrap();
    let mut objects = BTreeMap::new();
    for item in list["items"].as_array().unwrap() {
        let mut item = item.clone();
        let key = format!("{} {}", item["kind"], item["metadata"]["name"]);
        let metadata = item["metadata"].as_object_mut().unwrap();
        for field in ["uid", "resourceVersion", "creationTimestamp"] {
            metadata.remove(field);
        }
        for entry in metadata.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            entry.as_object_mut().unwrap().remove("time");
        }
        objects.insert(key, item);
    }
    objects
}

#[test]
fn kubectl_makes_the_same_objects_in_protobuf_and_json() {
    let world = World::new();
    // What kubectl 1.20 sends is JSON, and its words are others.
    let kubectl = &kubectls()[0];
    let _server = Server::start(&world);
    let run = |words: &str, more: &[&str]| {
        let mut command = world.kubectl_of(kubectl, ["create"]);
        let (before, after) = words.split_once(" -- ").unwrap_or((words, ""));
        command.args(before.split(' ')).args(more);
        if !after.is_empty() {
            command.arg("--").args(after.split(' '));
        }
        finish(command).succeeded().stdout
    };
    let (token, kinds) = CREATED.split_last().unwrap();
    let mut names = Vec::new();
    let mut documents = String::new();
    for words in kinds {
        names.push(run(words, &["-o", "name"]).trim().to_owned());
        documents.push_str(&run(words, &["--dry-run=client", "-o", "json"]));
        documents.push_str("\n---\n");
    }
    let all = |verb: &str, more: &[&str]| {
        let mut command = world.kubectl_of(kubectl, [verb]);
        command.args(&names).args(more);
        finish(command).succeeded().stdout
    };
    assert_eq!(run(token, &[]).trim().split('.').count(), 3);
    let show = ["-o", "json", "--show-managed-fields"];
    let from_protobuf = objects(&all("get", &show));
    all("delete", &["--wait"]);
    finish_with_input(world.kubectl_of(kubectl, ["create", "-f", "-"]), &documents).succeeded();
    let from_json = objects(&all("get", &show));
    assert_eq!(from_protobuf.len(), kinds.len());
    for (key, object) in &from_json {
        assert_eq!(Some(object), from_protobuf.get(key), "{key}");
    }
}

#[test]
fn kubectl_asks_and_scales() {
    let world = World::new();
    let _server = Server::start(&world);
    let kubectl = |words: &str| finish(world.kubectl(words.split(' ')));
    assert!(kubectl("auth whoami").succeeded().stdout.contains("kubernetes-admin"));
    assert_eq!(kubectl("auth can-i get pods").succeeded().stdout.trim(), "yes");
    assert_eq!(kubectl("auth can-i get /metrics --as=nobody").failed().stdout.trim(), "no");
    assert!(kubectl("auth can-i --list").succeeded().stdout.contains("[*]"));
    kubectl("create deployment web --image=nginx").succeeded();
    kubectl("scale deployment web --replicas=3").succeeded();
    kubectl("expose deployment web --port=80 --target-port=http").succeeded();
    kubectl("run one --image=nginx --env=A=").succeeded();
    kubectl("delete deployment web --cascade=orphan").succeeded();
    kubectl("delete service,pod --all --now --wait=false").succeeded();
}

/// A field with bytes; short ones.
fn field(number: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn body(api_version: &str, kind: &str, raw: impl AsRef<[u8]>) -> Vec<u8> {
    let meta = [field(1, api_version), field(2, kind)].concat();
    [b"k8s\0".to_vec(), field(1, meta), field(2, raw)].concat()
}

#[tokio::test]
async fn protobuf_is_for_built_in_kinds() {
    let world = World::new();
    let server = Server::start(&world);
    let mut client = Credentials::read(&world).connect(server.address()).await.unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    let named = field(1, field(1, "one"));

    // An unknown field of a newer version is skipped, however strict the request is.
    let newer = [named.clone(), field(15, "new")].concat();
    let path = format!("{maps}?fieldValidation=Strict");
    let created =
        client.call_as(Method::POST, &path, PROTOBUF, body("v1", "ConfigMap", newer)).await.unwrap();
    assert_eq!(created.status, 201, "{created:?}");
    let mut object = created.json();
    assert_eq!(object["metadata"]["name"], "one");

    let data = field(2, [field(1, "k"), field(2, "v")].concat());
    let raw = [named.clone(), data].concat();
    let path = format!("{maps}/one");
    object = client
        .call_as(Method::PUT, &path, PROTOBUF, body("v1", "ConfigMap", raw))
        .await
        .unwrap()
        .succeeded()
        .json();
    assert_eq!(object["data"], json!({"k": "v"}));

    for (kind, raw, message) in [
        (
            "ConfigMap",
            vec![0x0a],
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: unexpected EOF",
        ),
        (
            "Secret",
            named.clone(),
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): \
             unknown conversion",
        ),
    ] {
        let refused = client.call_as(Method::POST, maps, PROTOBUF, body("v1", kind, raw)).await.unwrap();
        assert_eq!((refused.status, refused.json()["message"].as_str()), (400, Some(message)));
    }

    let options = body("v1", "DeleteOptions", field(4, "Background"));
    client.call_as(Method::DELETE, &path, PROTOBUF, options).await.unwrap().succeeded();

    let machines = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines";
    let machine = body("kubevirt.io/v1", "VirtualMachine", &named);
    let refused = client.call_as(Method::POST, machines, PROTOBUF, machine).await.unwrap();
    assert_eq!(refused.status, 415);
    assert_eq!(
        refused.json()["message"],
        "the body of the request was in an unknown format - accepted media types include: application/json, \
         application/yaml"
    );
    // What is deleted is custom, and the options are not.
    let options = body("kubevirt.io/v1", "DeleteOptions", "");
    let missing =
        client.call_as(Method::DELETE, &format!("{machines}/none"), PROTOBUF, options).await.unwrap();
    assert_eq!(missing.status, 404, "{missing:?}");
}
