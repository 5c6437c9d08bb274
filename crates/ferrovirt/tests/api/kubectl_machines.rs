//! kubectl with KubeVirt's kinds.

use std::path::Path;

use crate::kubectl::{each, holds, rows};
use crate::server::{Server, World, finish, wait_until};

const BAD: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: bad}
spec:
  runStrategy: Always
  template:
    spec:
      domain:
        devices: {}
        memory: {guest: 64Mi}
        firmware: {kernelBoot: {container: {image: '', kernelPath: boot/vmlinuz}}}
";

fn demo() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/vm.yaml")).unwrap()
}

#[test]
fn machines_are_made_shown_changed_and_refused() {
    let world = World::new();
    let _server = Server::start(&world);
    let file = world.file("vm.yaml", demo());
    for kubectl in each(&world) {
        assert_eq!(kubectl.ok("apply -f vm.yaml"), "virtualmachine.kubevirt.io/demo created\n");
        assert_eq!(kubectl.ok("apply -f vm.yaml"), "virtualmachine.kubevirt.io/demo unchanged\n");
        let table = rows(&kubectl.ok("get vm"));
        assert_eq!(table[0], "NAME AGE STATUS READY");
        assert!(table[1].starts_with("demo ") && table[1].ends_with(" Stopped False"), "{table:?}");
        holds(
            &kubectl.ok("describe vm demo"),
            &[
                "Run Strategy:  Manual",
                "Guest:  512Mi",
                "Message:               VMI does not exist",
                "Printable Status:        Stopped",
            ],
        );
        assert_eq!(kubectl.names("virtualmachines"), ["virtualmachine.kubevirt.io/demo"]);
        assert_eq!(kubectl.field("vms/demo", ".metadata.generation"), "1");

        kubectl.run_with("patch vm demo --type=merge -p", r#"{"spec":{"runStrategy":"Halted"}}"#).succeeded();
        assert_eq!(kubectl.field("vm/demo", ".metadata.generation"), "2");
        let strategic =
            kubectl.run_with("patch vm demo -p", r#"{"spec":{"runStrategy":"Always"}}"#).failed().stderr;
        holds(
            &strategic,
            &[
                "accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ],
        );
        holds(&kubectl.ok("apply -f vm.yaml"), &["demo configured"]);
        assert_eq!(kubectl.field("vm/demo", ".spec.runStrategy"), "Manual");

        let path = "spec.template.spec.domain.firmware.kernelBoot.container";
        let wanted = format!(
            "The request is invalid: \n* {path}.image: {path} must be defined with an image\n* {path}.kernelPath: \
             {path}.kernelPath must be an absolute path to a file without relative components\n"
        );
        assert_eq!(kubectl.feed("create -f -", BAD).failed().stderr, wanted);
        let one = BAD.replace("image: ''", "image: localhost/kernel");
        let wanted = format!(
            "The request is invalid: {path}.kernelPath: {path}.kernelPath must be an absolute path to a file without relative \
             components\n"
        );
        assert_eq!(kubectl.feed("create -f -", &one).failed().stderr, wanted);
        let strategy = "{apiVersion: kubevirt.io/v1, kind: VirtualMachine, metadata: {name: bad}, spec: {template: {spec: \
                        {domain: {devices: {}, memory: {guest: 64Mi}}}}}}";
        assert_eq!(
            kubectl.feed("create -f -", strategy).failed().stderr,
            "The request is invalid: spec.running: RunStrategy must be specified\n"
        );
        let mistyped = kubectl
            .feed("create --validate=false -f -", &BAD.replace("64Mi}", "64Mi}\n        cpu: {cores: many}"));
        assert_eq!(
            mistyped.failed().stderr,
            "The request is invalid: : spec.template.spec.domain.cpu.cores in body must be of type integer: \"string\"\n"
        );
        assert!(kubectl.run("get vm bad").failed().stderr.contains("NotFound"));
        kubectl.ok("delete -f vm.yaml");

        let old_version = demo().replace("kubevirt.io/v1", "kubevirt.io/v1alpha3");
        let made = kubectl.feed("create -f -", &old_version).succeeded();
        assert_eq!(
            made.stderr,
            "Warning: kubevirt.io/v1alpha3 is now deprecated and will be removed in a future release.\n"
        );
        assert_eq!(kubectl.field("vm.v1.kubevirt.io/demo", ".apiVersion"), "kubevirt.io/v1");
        assert_eq!(
            kubectl.field("virtualmachines.v1alpha3.kubevirt.io/demo", ".apiVersion"),
            "kubevirt.io/v1alpha3"
        );
        kubectl.ok("delete vm --all");
    }
    assert!(file.is_file());
}

#[test]
fn instances_do_not_change_and_go_when_their_controller_lets_them() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        let instance = "
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: guest}
spec:
  domain:
    devices: {}
    memory: {guest: 64Mi}
    firmware: {kernelBoot: {container: {image: localhost/kernel, kernelPath: /k}}}
";
        kubectl.feed("create -f -", instance).succeeded();
        assert_eq!(rows(&kubectl.ok("get vmi"))[0], "NAME AGE PHASE IP NODENAME READY");
        assert_eq!(
            rows(&kubectl.ok("get vmi -o wide"))[0],
            "NAME AGE PHASE IP NODENAME READY LIVE-MIGRATABLE PAUSED"
        );
        assert_eq!(kubectl.field("vmi/guest", ".status.phase"), "Pending");
        let refused =
            kubectl.run_with("patch vmi guest --type=merge -p", r#"{"spec":{"hostname":"x"}}"#).failed();
        assert_eq!(refused.stderr, "The request is invalid: spec: update of VMI object is restricted\n");
        kubectl.ok("label vmi guest mine=yes");
        kubectl.ok("delete vmi guest --wait=false");
        assert!(!kubectl.field("vmi/guest", ".metadata.deletionTimestamp").is_empty());
        let finalizers = r#"[{"op":"remove","path":"/metadata/finalizers"}]"#;
        kubectl.run_with("patch vmi guest --type=json -p", finalizers).succeeded();
        wait_until("the instance is gone", || kubectl.names("vmi").is_empty().then_some(()));
    }
}

#[test]
fn the_rest_of_kubevirt_is_there_and_says_what_it_does_not_do() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        let kubevirt = rows(&kubectl.ok("get kv --namespace=kubevirt"));
        assert_eq!(kubevirt[0], "NAME AGE PHASE");
        assert!(kubevirt[1].ends_with(" Deployed"), "{kubevirt:?}");
        for (version, kind, resource) in [
            ("pool.kubevirt.io/v1alpha1", "VirtualMachinePool", "vmpool"),
            ("kubevirt.io/v1", "VirtualMachineInstanceReplicaSet", "vmirs"),
            ("kubevirt.io/v1", "VirtualMachineInstanceMigration", "vmim"),
            ("snapshot.kubevirt.io/v1beta1", "VirtualMachineSnapshot", "vmsnapshot"),
            ("instancetype.kubevirt.io/v1beta1", "VirtualMachineInstancetype", "vminstancetype"),
            ("clone.kubevirt.io/v1beta1", "VirtualMachineClone", "vmclone"),
        ] {
            assert!(kubectl.names(resource).is_empty());
            let object =
                format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: one}}, spec: {{}}}}");
            let refused = kubectl.feed("create --validate=false -f -", &object).failed().stderr;
            holds(&refused, &[&format!("{kind} is not supported by ferrovirt")]);
        }
    }
}

/// KubeVirt's own example manifests, where somebody has put them beside this project. Most ask for what is not supported;
/// what matters is that each answer says so.
#[test]
fn examples_of_kubevirt_are_accepted_or_refused_with_a_reason() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kubevirt/examples");
    let Ok(entries) = std::fs::read_dir(&examples) else {
        eprintln!("skipped: there are no examples in {}", examples.display());
        return;
    };
    let files = entries
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "yaml"))
        .count();
    assert!(files > 20, "only {files} examples");
    let world = World::new();
    let _server = Server::start(&world);
    // One is enough, and the old one allows itself five requests a second.
    let kubectl = each(&world).remove(0);
    let mut command = kubectl.command("apply --dry-run=server --validate=false -f");
    command.arg(&examples);
    let outcome = finish(command).failed();
    let mut answers = outcome.stdout.lines().count();
    holds(&outcome.stdout, &["virtualmachineinstance.kubevirt.io/vmi-kernel-boot created (server dry run)"]);
    for line in outcome.stderr.lines().filter(|line| !line.starts_with("Warning:")) {
        if line.starts_with("ensure CRDs are installed") {
            continue;
        }
        let refused = line.starts_with("Error from server (Invalid)")
            || line.starts_with("Error from server (MethodNotAllowed)");
        let supported = refused && line.contains("not supported by ferrovirt");
        // A kind of Kubernetes' that KubeVirt uses and this server does not have.
        let unknown = line.contains("no matches for kind \"ResourceClaimTemplate\"");
        assert!(supported || unknown, "{line}");
        answers += 1;
    }
    assert_eq!(answers, files, "each example has its answer:\n{}{}", outcome.stdout, outcome.stderr);
}
