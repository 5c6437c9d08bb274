#![allow(clippy::unwrap_used)]

use super::*;
use crate::builtin;
use crate::kind::{ForeignGroup, Names, SchemaSource};

fn kinds() -> Kinds {
    let names = Names {
        short_names: vec!["vm".to_owned()],
        categories: vec!["all".to_owned()],
        ..Names::new("VirtualMachine", "virtualmachines")
    };
    let schema = SchemaSource::new("v1.VirtualMachine", Map::new);
    let mut custom = Kind::new("kubevirt.io", &["v1", "v1alpha3"], names, Scope::Namespaced, schema);
    custom.has_status = true;
    Kinds::new(builtin::kinds().into_iter().chain([custom]))
}

fn resource(list: &Value, name: &str) -> Value {
    list["resources"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned().unwrap()
}

#[test]
fn pods_are_listed_as_kubernetes_lists_them() {
    let list = resources(&kinds(), "", "v1").unwrap();
    assert_eq!(list["groupVersion"], "v1");
    assert_eq!(
        resource(&list, "pods"),
        json!({
            "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            "shortNames": ["po"], "categories": ["all"], "storageVersionHash": "xPOwRZ+Yhw8=",
        })
    );
    assert_eq!(
        resource(&list, "pods/eviction"),
        json!({
            "name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1",
            "kind": "Eviction", "verbs": ["create"],
        })
    );
    assert_eq!(resource(&list, "serviceaccounts/token")["kind"], "TokenRequest");
    assert_eq!(resource(&list, "namespaces/finalize")["verbs"], json!(["update"]));
    let scale = resource(&resources(&kinds(), "apps", "v1").unwrap(), "deployments/scale");
    assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
}

#[test]
fn every_version_lists_the_resource_and_nothing_else_is_there() {
    for version in ["v1", "v1alpha3"] {
        let list = resources(&kinds(), "kubevirt.io", version).unwrap();
        assert_eq!(list["groupVersion"], format!("kubevirt.io/{version}"));
        assert_eq!(list["resources"].as_array().unwrap().len(), 2);
    }
    assert_eq!(resources(&kinds(), "kubevirt.io", "v2"), None);
    assert_eq!(group(&kinds(), "nothing.example.com"), None);
    assert_eq!(group(&kinds(), ""), None);
}

#[test]
fn groups_say_which_version_they_prefer() {
    let found = group(&kinds(), "kubevirt.io").unwrap();
    assert_eq!(
        found,
        json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": "kubevirt.io",
            "versions": [
                {"groupVersion": "kubevirt.io/v1", "version": "v1"},
                {"groupVersion": "kubevirt.io/v1alpha3", "version": "v1alpha3"},
            ],
            "preferredVersion": {"groupVersion": "kubevirt.io/v1", "version": "v1"},
        })
    );
    let all = groups(&kinds());
    let names: Vec<_> =
        all["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(names.first(), Some(&"apps"));
    assert_eq!(names.last(), Some(&"kubevirt.io"));
    assert!(names.contains(&"authorization.k8s.io"));
    assert_eq!(core_versions(&kinds(), "127.0.0.1:6443")["versions"], json!(["v1"]));
}

#[test]
fn aggregated_discovery_tells_the_same_at_once() {
    let core = aggregated(&kinds(), true, Aggregated::V2);
    assert_eq!(core["apiVersion"], "apidiscovery.k8s.io/v2");
    let resources = core["items"][0]["versions"][0]["resources"].as_array().unwrap();
    let pods = resources.iter().find(|resource| resource["resource"] == "pods").unwrap();
    assert_eq!(pods["responseKind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert_eq!(pods["scope"], "Namespaced");
    let log = &pods["subresources"].as_array().unwrap()[2];
    assert_eq!(
        log,
        &json!({
            "subresource": "log", "responseKind": {"group": "", "version": "v1", "kind": "Pod"}, "verbs": ["get"],
        })
    );
    let others = aggregated(&kinds(), false, Aggregated::V2Beta1);
    assert_eq!(others["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    let last = others["items"].as_array().unwrap().last().unwrap();
    assert_eq!(last["metadata"]["name"], "kubevirt.io");
    assert_eq!(last["versions"].as_array().unwrap().len(), 2);
}

/// The types that client libraries read it with.
#[test]
fn the_documents_are_what_typed_clients_expect() {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList, APIVersions};
    let kinds = kinds();
    serde_json::from_value::<APIVersions>(core_versions(&kinds, "x:1")).unwrap();
    let groups: APIGroupList = serde_json::from_value(groups(&kinds)).unwrap();
    for group in groups.groups {
        for version in group.versions {
            let list = resources(&kinds, &group.name, &version.version).unwrap();
            let list: APIResourceList = serde_json::from_value(list).unwrap();
            assert!(!list.resources.is_empty());
        }
    }
}

#[test]
fn what_somebody_else_answers_is_named_and_nothing_more() {
    let kinds = kinds().with_foreign(ForeignGroup {
        name: "subresources.kubevirt.io",
        versions: &["v1", "v1alpha3"],
        resources: &["expand-vm-spec", "virtualmachines/start", "virtualmachines/sev/setup"],
    });
    let document = group(&kinds, "subresources.kubevirt.io").unwrap();
    assert_eq!(document["preferredVersion"]["groupVersion"], "subresources.kubevirt.io/v1");
    let list = resources(&kinds, "subresources.kubevirt.io", "v1alpha3").unwrap();
    let row =
        |name: &str| json!({"name": name, "singularName": "", "namespaced": true, "kind": "", "verbs": []});
    let names = ["expand-vm-spec", "virtualmachines/sev/setup", "virtualmachines/start"];
    assert_eq!(list["resources"], json!(names.map(row)));
    assert_eq!(resources(&kinds, "subresources.kubevirt.io", "v2"), None);

    let all = aggregated(&kinds, false, Aggregated::V2);
    let items = all["items"].as_array().unwrap();
    let found = items.iter().find(|item| item["metadata"]["name"] == "subresources.kubevirt.io").unwrap();
    let resources = found["versions"][0]["resources"].as_array().unwrap();
    assert_eq!(resources.len(), 2);
    assert_eq!(resources[1]["resource"], "virtualmachines");
    assert_eq!(resources[1]["subresources"][1]["subresource"], "start");
}
