//! kubectl's commands that only look.

use crate::kubectl::{each, holds, rows};
use crate::server::{Server, World, wait_until};

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: here, labels: {kubernetes.io/hostname: here}}
status:
  addresses: [{type: InternalIP, address: 192.0.2.7}]
  conditions: [{type: Ready, status: 'True', reason: KubeletReady, message: up}]
  nodeInfo: {kubeletVersion: v1.33.0, osImage: Some Linux, kernelVersion: '6.1', containerRuntimeVersion: none, architecture: amd64,
    operatingSystem: linux, machineID: a, systemUUID: b, bootID: c, kubeProxyVersion: ''}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: pod, labels: {app: x}}
spec: {containers: [{name: main, image: busybox, command: [sh]}]}
";

const INSTANCE: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: guest}
spec:
  domain:
    devices: {}
    memory: {guest: 64Mi}
    firmware: {kernelBoot: {container: {image: localhost/kernel, kernelPath: /k, initrdPath: /i}}}
";

fn numbered(number: u32) -> String {
    format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{number}, labels: {{odd: '{}'}}}}, data: {{order: '{}'}}}}",
        number % 2,
        9 - number
    )
}

#[test]
fn lists_are_paged_sorted_selected_and_printed_in_every_form() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        wait_until("each namespace has the certificate", || {
            kubectl.ok("get cm").contains("kube-root-ca.crt").then_some(())
        });
        let many: Vec<_> = (1..=7).map(numbered).collect();
        kubectl.apply(&many.join("\n---\n"));
        let all: Vec<_> = (1..=7).map(|number| format!("configmap/c{number}")).collect();
        assert_eq!(kubectl.names("cm"), all);
        assert_eq!(kubectl.names("cm --chunk-size=2"), all);
        let paged = kubectl.run("get cm --chunk-size=2 -v=6").succeeded();
        assert_eq!(
            paged.stderr.matches("limit=2").count(),
            4,
            "8 objects are 4 pages of 2:\n{}",
            paged.stderr
        );
        let sorted = rows(&kubectl.ok("get cm -l odd --sort-by=.data.order --show-labels --no-headers"));
        assert!(sorted[0].starts_with("c7 1 ") && sorted[0].ends_with(" odd=1"), "{sorted:?}");
        assert!(sorted[6].starts_with("c1 1 "), "{sorted:?}");
        assert_eq!(kubectl.names("cm -l odd=0"), ["configmap/c2", "configmap/c4", "configmap/c6"]);
        assert_eq!(kubectl.names("cm -l odd!=0,odd").len(), 4);
        let set = kubectl.run_with("get cm -o name -l", "odd notin (1), odd in (0, 2)").succeeded().stdout;
        assert_eq!(set.lines().count(), 3);
        assert_eq!(kubectl.names("cm --field-selector=metadata.name=c3"), ["configmap/c3"]);
        assert_eq!(kubectl.names("cm -l odd --field-selector=metadata.name!=c3").len(), 6);
        let unknown = kubectl.fails("get cm --field-selector=data.order=3");
        holds(&unknown, &["Error from server (BadRequest)", "is not a known field selector"]);
        assert_eq!(rows(&kubectl.ok("get cm -L odd -l odd=0"))[0], "NAME DATA AGE ODD");

        assert_eq!(
            rows(&kubectl.ok("get cm c1 c2 -o custom-columns=N:.metadata.name,O:.data.order,X:.data.none")),
            ["N O X", "c1 8 <none>", "c2 7 <none>"]
        );
        let json: serde_json::Value = serde_json::from_str(&kubectl.ok("get cm c1 -o json")).unwrap();
        assert_eq!(json["data"]["order"], "8");
        holds(&kubectl.ok("get cm c1 c2 -o yaml"), &["kind: List", "  kind: ConfigMap", "    order: \"7\""]);
        assert_eq!(
            kubectl.ok("get cm -l odd -o jsonpath={.items[?(@.data.order==\"3\")].metadata.name}"),
            "c6"
        );
        assert_eq!(kubectl.ok("get cm c1 -o go-template={{.data.order}}"), "8");
        kubectl.apply(POD);
        assert_eq!(kubectl.names("cm/c1 pod/pod"), ["configmap/c1", "pod/pod"]);
        assert_eq!(kubectl.names("pod --field-selector=status.phase=Pending,spec.nodeName="), ["pod/pod"]);
        holds(&kubectl.ok("get all"), &["pod/pod"]);
        holds(
            &rows(&kubectl.ok("get pod -A")).join("\n"),
            &[
                "NAMESPACE NAME READY STATUS RESTARTS AGE",
                &format!("{} pod 0/1 Pending 0 ", kubectl.namespace),
            ],
        );
        let wide = rows(&kubectl.ok("get pod -o wide"));
        assert_eq!(wide[0], "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES");
        assert_eq!(
            kubectl.run("get pvc").succeeded().stderr.trim(),
            format!("No resources found in {} namespace.", kubectl.namespace)
        );
        holds(&kubectl.fails("get pod none"), &["Error from server (NotFound): pods \"none\" not found"]);
        holds(&kubectl.fails("get cm c1 --namespace=none"), &["namespaces \"none\" not found"]);
        holds(&kubectl.fails("get nosuch"), &["the server doesn't have a resource type \"nosuch\""]);
        holds(&kubectl.fails("get --raw /apis/none/v1"), &["NotFound"]);
    }
}

#[test]
fn objects_are_described() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        kubectl.apply(NODE);
        kubectl.apply(POD);
        let made = kubectl.feed("create -f -", INSTANCE).succeeded();
        assert_eq!(made.stderr, "", "nobody is warned of defaults that they did not write");
        kubectl.apply(&numbered(1));
        let uid = kubectl.field("vmi/guest", ".metadata.uid");
        let namespace = kubectl.namespace;
        kubectl.apply(&format!(
            "
apiVersion: v1
kind: Event
metadata: {{name: guest.1, namespace: {namespace}}}
involvedObject: {{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, name: guest, namespace: {namespace}, uid: {uid}}}
type: Normal
reason: Created
message: it was defined
source: {{component: virt-handler}}
firstTimestamp: '2026-01-01T00:00:00Z'
lastTimestamp: '2026-01-01T00:00:00Z'
count: 3
"
        ));
        let machine = kubectl.ok("describe vmi guest");
        holds(
            &machine,
            &["Kind:         VirtualMachineInstance", "Guest:  ", "64Mi", "it was defined", "virt-handler"],
        );
        let events = rows(&kubectl.ok("get events"));
        assert_eq!(events[0], "LAST SEEN TYPE REASON OBJECT MESSAGE");
        holds(&events[1], &["Normal Created virtualmachineinstance/guest it was defined"]);
        assert_eq!(kubectl.names("events --field-selector=involvedObject.name=guest,type=Normal").len(), 1);
        assert_eq!(kubectl.names("events --field-selector=involvedObject.name=other").len(), 0);
        if !kubectl.old {
            holds(&kubectl.ok("events --for=vmi/guest"), &["it was defined"]);
            holds(&kubectl.ok("events --types=Normal"), &["it was defined"]);
        }

        holds(
            &kubectl.ok("describe pod pod"),
            &["Status:", "Pending", "busybox", "QoS Class:", "BestEffort"],
        );
        holds(&kubectl.ok("describe cm c1"), &["order:\n----\n8\n", "Labels:       odd=1"]);
        let node = kubectl.ok("describe node here");
        holds(&node, &["InternalIP:  192.0.2.7", "KubeletReady", "Some Linux", "Non-terminated Pods:"]);
        let nodes = rows(&kubectl.ok("get node -o wide"));
        assert!(nodes[1].starts_with("here Ready <none> "), "{nodes:?}");
        holds(&nodes[1], &["v1.33.0 192.0.2.7 <none> Some Linux 6.1 none"]);
        kubectl.ok("cordon here");
        holds(&kubectl.ok("get node here"), &["Ready,SchedulingDisabled"]);
        kubectl.ok("uncordon here");
        holds(
            &kubectl.ok(&format!("describe ns {namespace}")),
            &["Status:       Active", "No resource quota."],
        );
        holds(&kubectl.ok("describe secret,sa"), &["default"]);
        holds(&kubectl.ok("describe clusterrole cluster-admin"), &["*.*"]);
    }
}

#[test]
fn the_server_explains_itself() {
    let world = World::new();
    let server = Server::start(&world);
    for kubectl in each(&world) {
        let memory = kubectl.ok("explain vm.spec.template.spec.domain.memory");
        holds(&memory, &["VirtualMachine", "VERSION:", "kubevirt.io", "hugepages", "guest\t<"]);
        holds(&kubectl.ok("explain vm --recursive"), &["runStrategy\t<string>", "kernelArgs\t<string>"]);
        holds(
            &kubectl.ok("explain pod.spec.containers"),
            &["List of containers belonging to the pod.", "imagePullPolicy\t<string>"],
        );
        holds(&kubectl.ok("explain kv"), &["KubeVirt"]);
        holds(&kubectl.fails("explain pod.spec.nothing"), &["field \"nothing\" does not exist"]);
        holds(&kubectl.fails("explain nosuch"), &["the server doesn't have a resource type \"nosuch\""]);

        let resources = rows(&kubectl.ok("api-resources --no-headers"));
        for row in [
            "virtualmachines vm,vms kubevirt.io/v1 true VirtualMachine",
            "virtualmachineinstances vmi,vmis kubevirt.io/v1 true VirtualMachineInstance",
            "pods po v1 true Pod",
            "leases coordination.k8s.io/v1 true Lease",
        ] {
            assert!(resources.contains(&row.to_owned()), "{row:?} is not in {resources:#?}");
        }
        holds(&kubectl.ok("api-resources --namespaced=false -o name"), &["namespaces\nnodes\n"]);
        holds(
            &kubectl.ok("api-resources --verbs=create,list --api-group=apps -o name"),
            &["deployments.apps\n"],
        );
        let versions = kubectl.ok("api-versions");
        holds(
            &versions,
            &["kubevirt.io/v1\n", "kubevirt.io/v1alpha3\n", "rbac.authorization.k8s.io/v1\n", "\nv1\n"],
        );

        assert_eq!(kubectl.ok("auth can-i create vm"), "yes\n");
        assert_eq!(kubectl.run("auth can-i create vm --as=joe").failed().stdout.trim_end(), "no");
        assert_eq!(kubectl.ok("auth can-i list pods --as=joe --as-group=system:masters"), "yes\n");
        assert_eq!(kubectl.ok("auth can-i get /healthz --as=joe"), "yes\n");
        holds(
            &kubectl.ok("auth can-i --list --as=joe"),
            &["selfsubjectaccessreviews.authorization.k8s.io", "[/healthz]", "[create]"],
        );
        let denied = kubectl.fails("get secrets --as=joe");
        let wanted = format!(
            "Error from server (Forbidden): secrets is forbidden: User \"joe\" cannot list resource \"secrets\" in API group \
             \"\" in the namespace \"{}\"",
            kubectl.namespace
        );
        assert_eq!(denied.trim_end(), wanted);
        if !kubectl.old {
            holds(
                &kubectl.ok("auth whoami"),
                &["kubernetes-admin", "system:masters", "system:authenticated"],
            );
            holds(&kubectl.ok("auth whoami --as=joe -o json"), &["\"username\": \"joe\""]);
        }

        let configuration = kubectl.ok("config view");
        holds(&configuration, &["DATA+OMITTED", &format!("https://{}", server.address())]);
        assert_eq!(kubectl.ok("config current-context"), "ferrovirt\n");
        holds(&kubectl.ok("version"), &["v1.33.0+ferrovirt."]);
        holds(&kubectl.ok("cluster-info"), &["is running at"]);
        assert_eq!(kubectl.ok("get --raw /livez"), "ok");
        holds(&kubectl.ok("get --raw /readyz?verbose"), &["[+]ping ok", "readyz check passed"]);
    }
}

#[test]
fn watches_show_events_in_order_and_waits_end() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        kubectl.apply(&numbered(1));
        let columns = "-o custom-columns=NAME:.metadata.name,ORDER:.data.order --no-headers";
        let mut watch = kubectl.start(&format!("get cm -l odd -w {columns}"));
        assert_eq!(watch.line(), "c1 8");
        let mut table = kubectl.start("get cm -l odd -w --output-watch-events");
        assert_eq!(table.line(), "EVENT NAME DATA AGE");
        assert!(table.line().starts_with("ADDED c1 1 "));
        kubectl.apply(&numbered(2));
        assert_eq!(watch.line(), "c2 7");
        assert!(table.line().starts_with("ADDED c2 1 "));
        for order in ["b", "c", "d"] {
            let patch = format!("{{\"data\":{{\"order\":\"{order}\"}}}}");
            kubectl.run_with("patch cm c2 --type=merge -p", &patch).succeeded();
        }
        // An object that leaves the selection is deleted as far as this watch goes.
        kubectl.ok("label cm c2 odd-");
        kubectl.ok("delete cm c1");
        for line in ["c2 b", "c2 c", "c2 d", "c2 d", "c1 8"] {
            assert_eq!(watch.line(), line);
        }
        for start in ["MODIFIED c2", "MODIFIED c2", "MODIFIED c2", "DELETED c2", "DELETED c1"] {
            let line = table.line();
            assert!(line.starts_with(start), "{line:?} where {start:?} was expected");
        }

        let mut only = kubectl.start("get cm -l odd --watch-only -o name");
        let mut single = kubectl
            .start("get cm c7 --ignore-not-found --watch-only -o name --field-selector=metadata.name=c7");
        drop(single);
        single = kubectl.start("get cm --field-selector=metadata.name=c7 --watch-only -o name");
        // Neither says when it has begun: each is given objects until it shows one.
        for (watch, number) in [(&mut only, 5), (&mut single, 7)] {
            let stop = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        kubectl.apply(&numbered(number));
                        kubectl.ok(&format!("delete cm c{number}"));
                    }
                });
                let line = watch.line();
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                assert_eq!(line, format!("configmap/c{number}"));
            });
        }

        kubectl.apply(NODE);
        kubectl.ok("wait --for=condition=Ready node/here --timeout=60s");
        holds(
            &kubectl.fails("wait --for=condition=DiskPressure node/here --timeout=100ms"),
            &["timed out waiting for the condition"],
        );
        kubectl.apply(&numbered(1));
        let waiting = kubectl.command("wait --for=delete cm/c1 --timeout=60s");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| crate::server::finish(waiting));
            kubectl.ok("delete cm c1");
            let ended = waiting.join().unwrap();
            // The old one fails where there is nothing left to wait for when it starts.
            let late = kubectl.old && ended.stderr.contains("no matching resources found");
            assert!(ended.status.success() || late || ended.stderr.contains("NotFound"), "{ended:?}");
        });
        if !kubectl.old {
            kubectl.apply(POD);
            kubectl.ok("wait --for=jsonpath={.status.phase}=Pending pod/pod --timeout=60s");
            kubectl.ok("wait --for=create pod/pod --timeout=60s");
        }
    }
}
