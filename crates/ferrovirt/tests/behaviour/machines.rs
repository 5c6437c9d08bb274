//! What is ours alone: the admission of KubeVirt's kinds, and kinds that are shown and not served.

use serde_json::{Value, json};

use crate::target::{JSON_PATCH, MERGE, with_space};

const VMS: &str = "kubevirt.io/v1:virtualmachines";
const VMIS: &str = "kubevirt.io/v1:virtualmachineinstances";

fn domain() -> Value {
    json!({"devices": {}, "memory": {"guest": "64Mi"}})
}

fn machine(name: &str, template: Value) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
        "spec": {"runStrategy": "Halted", "template": {"spec": template}}})
}

fn instance(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn machines_are_admitted_as_kubevirt_does() {
    with_space(|space| async move {
        if !space.target.ours_alone() {
            return;
        }
        let vm_validator = "admission webhook \"virtualmachine-validator.kubevirt.io\" denied the request: ";
        let vm_mutator = "admission webhook \"virtualmachines-mutator.kubevirt.io\" denied the request: ";
        let vmi_validator = "admission webhook \"virtualmachineinstances-create-validator.kubevirt.io\" denied the request: ";
        let disk = json!({"domain": {"devices": {"disks": [{"name": "d"}]}, "memory": {"guest": "64Mi"}}});
        let mut no_strategy = machine("m", json!({"domain": domain()}));
        no_strategy["spec"].as_object_mut().unwrap().remove("runStrategy");
        let mut odd = machine("m", json!({"domain": domain()}));
        odd["spec"]["runStrategy"] = "Sometimes".into();
        // path, object, message prefix, field of the first cause
        let cases = [
            (VMS, no_strategy, vm_validator, "spec.running"),
            (VMS, odd, vm_validator, "spec.runStrategy"),
            (VMS, machine("m", disk.clone()), vm_validator, "spec.template.spec.domain.devices.disks[0].name"),
            (VMS, json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "m"}, "spec": {}}),
             vm_mutator, ""),
            (VMIS, instance("m", disk), vmi_validator, "spec.domain.devices.disks[0].name"),
        ];
        for (path, object, prefix, field) in cases {
            let reply = space.post(path, object).await;
            assert_eq!(reply.code, 422, "{field}: {}", reply.text());
            let status = reply.refused_with(422, "Invalid", prefix);
            let cause = &status["details"]["causes"][0];
            assert_eq!(cause["field"].as_str().unwrap_or_default(), field, "{status}");
            let text = cause["message"].as_str().unwrap();
            assert!(!text.contains("admission webhook"), "{status}");
            assert!(status["message"].as_str().unwrap()[prefix.len()..].starts_with(text), "{status}");
        }
        // What is filled in.
        let made = space.post(VMS, machine("m", json!({"domain": domain()}))).await.ok(201);
        assert_eq!(made["status"]["printableStatus"], "Stopped", "{made}");
        let made = space.post(VMIS, instance("i", json!({"domain": domain()}))).await.ok(201);
        assert_eq!(made["status"]["phase"], "Pending", "{made}");
        assert_eq!(made["metadata"]["finalizers"], json!(["kubevirt.io/foregroundDeleteVirtualMachine"]), "{made}");
        assert!(made["spec"]["domain"]["machine"]["type"].is_string(), "{made}");
        assert!(made["spec"]["domain"]["firmware"]["uuid"].is_string(), "{made}");
        // An instance's specification stays as it is.
        let reply = space.patch(&format!("{VMIS}/i"), MERGE, json!({"spec": {"terminationGracePeriodSeconds": 77}})).await;
        let status = reply.refused_with(
            422,
            "Invalid",
            "admission webhook \"virtualmachineinstances-update-validator.kubevirt.io\" denied the request: ",
        );
        assert!(status["message"].as_str().unwrap().contains("update of VMI object is restricted"), "{status}");
        let labels = json!({"metadata": {"labels": {"kubevirt.io/nodeName": "elsewhere"}}});
        let reply = space.patch(&format!("{VMIS}/i"), MERGE, labels).await;
        reply.refused_with(422, "Invalid", "modification of the following reserved kubevirt.io/ labels on a VMI object is prohibited");
        // Unknown fields are dropped as a structural schema drops them, or refused by the webhook.
        let mut stray = machine("stray", json!({"domain": domain()}));
        stray["spec"]["nonsense"] = 1.into();
        let reply = space.post(&format!("{VMS}?fieldValidation=Strict"), stray).await;
        assert!((400..500).contains(&reply.code), "{}", reply.text());
        assert!(reply.text().contains("nonsense"), "{}", reply.text());
        // Both versions are the same object, and the older one warns.
        let reply = space.get("kubevirt.io/v1alpha3:virtualmachines/m").await;
        assert_eq!(reply.ok(200)["apiVersion"], "kubevirt.io/v1alpha3");
        assert_eq!(reply.warnings(), ["kubevirt.io/v1alpha3 is now deprecated and will be removed in a future release."]);
        let clear = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
        space.patch(&format!("{VMIS}/i"), JSON_PATCH, clear).await.ok(200);
    })
    .await;
}

#[tokio::test]
async fn kinds_that_are_not_here_yet_say_so() {
    with_space(|space| async move {
        if !space.target.ours_alone() {
            return;
        }
        let groups = space.get("/apis").await.ok(200);
        let mut refused = 0;
        for group in groups["groups"].as_array().unwrap() {
            if !group["name"].as_str().unwrap().ends_with("kubevirt.io") {
                continue;
            }
            let version = group["preferredVersion"]["groupVersion"].as_str().unwrap();
            let list = space.get(&format!("/apis/{version}")).await.ok(200);
            for resource in list["resources"].as_array().unwrap() {
                let plural = resource["name"].as_str().unwrap();
                if plural.contains('/') || ["virtualmachines", "virtualmachineinstances", "kubevirts"].contains(&plural) {
                    continue;
                }
                if !resource["verbs"].as_array().unwrap().contains(&json!("create")) {
                    continue;
                }
                let path = match resource["namespaced"] == true {
                    true => format!("{version}:{plural}"),
                    false => format!("/apis/{version}/{plural}"),
                };
                assert_eq!(space.get(&path).await.names(), [""; 0]);
                let object = json!({"apiVersion": version, "kind": resource["kind"], "metadata": {"name": "a"}, "spec": {}});
                let reply = space.post(&path, object).await;
                assert!((400..500).contains(&reply.code), "{path}: {}", reply.text());
                let status = reply.json();
                assert!(status["message"].as_str().unwrap().contains("not supported by ferrovirt"), "{path}: {status}");
                refused += 1;
            }
        }
        assert!(refused >= 12, "{refused}");
        // The installation is found as KubeVirt's tools look for it.
        let kubevirt = space.get("/apis/kubevirt.io/v1/kubevirts").await.ok(200);
        assert_eq!(kubevirt["items"][0]["metadata"]["namespace"], "kubevirt");
        assert_eq!(kubevirt["items"][0]["status"]["phase"], "Deployed");
        // What the set-up of KubeVirt's own tests waits for.
        let operator = space.get("/apis/apps/v1/namespaces/kubevirt/deployments/virt-operator").await.ok(200);
        assert_eq!(operator["status"]["readyReplicas"], 1, "{operator}");
        assert_eq!(operator["metadata"]["labels"], json!({"kubevirt.io": "virt-operator"}), "{operator}");
    })
    .await;
}

#[tokio::test]
async fn there_is_one_installation() {
    with_space(|space| async move {
        if !space.target.ours_alone() {
            return;
        }
        for (path, name) in
            [("kubevirt.io/v1:kubevirts", "other"), ("/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts", "kubevirt")]
        {
            let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": name}, "spec": {}});
            let status = space.post(path, object).await.ok(400);
            assert_eq!(
                status["message"],
                "admission webhook \"kubevirt-create-validator.kubevirt.io\" denied the request: Kubevirt is already created"
            );
            assert_eq!(status.get("reason"), None, "{status}");
        }
        let kubevirts = space.get("/apis/kubevirt.io/v1/kubevirts").await;
        assert_eq!(kubevirts.names(), ["kubevirt"]);
    })
    .await;
}
