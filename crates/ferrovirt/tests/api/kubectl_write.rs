//! kubectl's commands that change something.

use crate::kubectl::{each, holds};
use crate::server::{Server, World, finish, wait_until};

const ONE: &str =
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: one, labels: {app: a}}, data: {a: '1', b: '2'}}";
const OTHER: &str =
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: one, labels: {app: a}}, data: {a: '1', c: '3'}}";

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: a, image: first}, {name: b, image: second}]}
";

#[test]
fn objects_are_created_applied_and_replaced() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        assert_eq!(kubectl.feed("create -f -", ONE).succeeded().stdout, "configmap/one created\n");
        let again = kubectl.feed("create -f -", ONE).failed().stderr;
        holds(&again, &["Error from server (AlreadyExists)", "configmaps \"one\" already exists"]);
        kubectl.ok("delete cm one");

        assert_eq!(kubectl.apply(ONE), "configmap/one created\n");
        assert_eq!(kubectl.apply(ONE), "configmap/one unchanged\n");
        kubectl.ok("label cm one kept=yes");
        let difference = kubectl.feed("diff -f -", OTHER).failed();
        holds(&difference.stdout, &["\n-  b: \"2\"\n+  c: \"3\"\n"]);
        assert_eq!(kubectl.field("cm/one", ".data"), r#"{"a":"1","b":"2"}"#, "a diff changes nothing");
        assert_eq!(kubectl.apply(OTHER), "configmap/one configured\n");
        assert_eq!(
            kubectl.field("cm/one", ".data"),
            r#"{"a":"1","c":"3"}"#,
            "b was applied before, and now it is not"
        );
        assert_eq!(kubectl.field("cm/one", ".metadata.labels"), r#"{"app":"a","kept":"yes"}"#);

        let before = kubectl.field("cm/one", ".metadata.resourceVersion");
        let dry = kubectl.feed("apply --dry-run=server -o yaml -f -", ONE).succeeded().stdout;
        holds(&dry, &["  b: \"2\"\n"]);
        assert_eq!(kubectl.field("cm/one", ".metadata.resourceVersion"), before);

        assert_eq!(kubectl.feed("replace -f -", ONE).succeeded().stdout, "configmap/one replaced\n");
        assert_eq!(kubectl.field("cm/one", ".data"), r#"{"a":"1","b":"2"}"#);
        assert_eq!(kubectl.field("cm/one", ".metadata.labels"), r#"{"app":"a"}"#);
        let missing = kubectl.feed("replace -f -", &ONE.replace("name: one", "name: none")).failed().stderr;
        holds(&missing, &["Error from server (NotFound)", "configmaps \"none\" not found"]);
        let forced = kubectl.feed("replace --force -f -", OTHER).succeeded().stdout;
        holds(&forced, &["configmap \"one\" deleted", "configmap/one replaced"]);
    }
}

#[test]
fn server_side_apply_names_its_conflicts() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        let apply = |manager: &str, more: &str, text: &str| {
            kubectl.feed(&format!("apply --server-side --field-manager={manager} {more} -f -"), text)
        };
        assert_eq!(apply("first", "", ONE).succeeded().stdout, "configmap/one serverside-applied\n");
        apply("second", "", ONE).succeeded();
        let changed = ONE.replace("'1'", "'9'");
        let conflict = apply("third", "", &changed).failed().stderr;
        let wanted = "error: Apply failed with 2 conflicts: conflicts with \"first\":\n- .data.a\nconflicts with \
                      \"second\":\n- .data.a\n";
        assert!(conflict.starts_with(wanted), "{conflict}");
        apply("third", "--force-conflicts", &changed).succeeded();
        assert_eq!(kubectl.field("cm/one", ".data.a"), "9");

        // A field that its last owner no longer applies goes; one that somebody else owns too stays.
        let less = "{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {b: '2'}}";
        apply("third", "", less).succeeded();
        assert_eq!(kubectl.field("cm/one", ".data"), r#"{"b":"2"}"#);
        let single = apply("fourth", "", &less.replace("'2'", "'3'")).failed().stderr;
        holds(&single, &["Apply failed with 3 conflicts"]);

        // What was made by client-side apply goes over to the server's.
        kubectl.apply(&ONE.replace("name: one", "name: both"));
        let moved = ONE.replace("name: one", "name: both").replace(", b: '2'", "");
        apply("kubectl", "--force-conflicts", &moved).succeeded();
        if !kubectl.old {
            assert_eq!(
                kubectl.field("cm/both", ".data"),
                r#"{"a":"1"}"#,
                "kubectl moves the ownership first"
            );
        }
    }
}

#[test]
fn patches_labels_annotations_and_scale() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        kubectl.apply(ONE);
        kubectl.apply(DEPLOYMENT);
        let images = || kubectl.field("deploy/web", ".spec.template.spec.containers[*].image");
        kubectl
            .run_with(
                "patch deploy web -p",
                r#"{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"new"}]}}}}"#,
            )
            .succeeded();
        assert_eq!(images(), "first new", "lists of containers are merged by their names");
        let merge = r#"{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"only"}]}}}}"#;
        kubectl.run_with("patch deploy web --type=merge -p", merge).succeeded();
        assert_eq!(images(), "only", "a merge patch replaces lists");

        kubectl.run_with("patch cm one --type=merge -p", r#"{"data":{"a":null,"z":"1"}}"#).succeeded();
        kubectl
            .run_with("patch cm one --type=json -p", r#"[{"op":"test","path":"/data/z","value":"1"},{"op":"replace","path":"/data/z","value":"2"}]"#)
            .succeeded();
        assert_eq!(kubectl.field("cm/one", ".data"), r#"{"b":"2","z":"2"}"#);
        let unchanged = kubectl.run_with("patch cm one --type=merge -p", r#"{"data":{"z":"2"}}"#).succeeded();
        assert_eq!(unchanged.stdout, "configmap/one patched (no change)\n");
        let refused = kubectl
            .run_with("patch cm one --type=json -p", r#"[{"op":"test","path":"/data/z","value":"1"}]"#)
            .failed();
        assert!(refused.stderr.starts_with("The request is invalid"), "{}", refused.stderr);
        let mistyped = kubectl.run_with("patch cm one --type=merge -p", r#"{"data":7}"#).failed().stderr;
        holds(&mistyped, &["is invalid: patch: Invalid value: ", "cannot unmarshal number"]);
        kubectl.run_with("patch cm one -p", r#"{"metadata":{"name":"two"}}"#).failed();

        assert_eq!(kubectl.ok("label cm one x=y"), "configmap/one labeled\n");
        kubectl.fails("label cm one x=z");
        kubectl.ok("label cm one x=z --overwrite");
        assert_eq!(kubectl.field("cm/one", ".metadata.labels"), r#"{"app":"a","x":"z"}"#);
        kubectl.ok("label cm one x-");
        assert_eq!(kubectl.field("cm/one", ".metadata.labels"), r#"{"app":"a"}"#);
        assert_eq!(kubectl.ok("annotate cm one x=y"), "configmap/one annotated\n");
        kubectl.fails("annotate cm one x=z");
        kubectl.ok("annotate cm one x=z --overwrite");
        assert_eq!(kubectl.field("cm/one", ".metadata.annotations.x"), "z");
        kubectl.ok("annotate cm one x-");
        assert_eq!(kubectl.field("cm/one", ".metadata.annotations.x"), "");

        assert_eq!(kubectl.ok("scale deploy web --replicas=3"), "deployment.apps/web scaled\n");
        assert_eq!(kubectl.field("deploy/web", ".spec.replicas"), "3");
        kubectl.fails("scale deploy web --current-replicas=2 --replicas=4");
        assert_eq!(kubectl.field("deploy/web", ".spec.replicas"), "3");
        kubectl.ok("set image deploy/web b=newest");
        assert_eq!(images(), "newest");
    }
}

#[test]
fn an_editor_changes_an_object_or_is_told_why_not() {
    let world = World::new();
    let _server = Server::start(&world);
    let editor = |name: &str, script: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = world.file(name, format!("#!/bin/sh\nset -eu\n{script}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let good = editor("good", "sed -i 's/^  a: .*/  a: edited/' \"$1\"");
    let wrong = editor("wrong", "sed -i 's/^kind: ConfigMap/immutable: 5\\n&/' \"$1\"");
    let refused = editor("refused", "cp \"$1\" seen; sed -i 's/^  name: one/  name: other/' \"$1\"");
    let idle = editor("idle", "true");
    for kubectl in each(&world) {
        kubectl.apply(ONE);
        let edit = |editor: &std::path::Path| {
            let mut command = kubectl.command("edit cm one");
            // What it could not save goes to files in the directory of temporary ones.
            command.env("KUBE_EDITOR", editor).env("TMPDIR", world.path("home"));
            finish(command)
        };
        assert_eq!(edit(&good).succeeded().stdout, "configmap/one edited\n");
        assert_eq!(kubectl.field("cm/one", ".data.a"), "edited");
        let cancelled = edit(&idle).succeeded();
        holds(&(cancelled.stdout + &cancelled.stderr), &["Edit cancelled, no changes made."]);
        let mistyped = edit(&wrong).failed().stderr;
        holds(&mistyped, &["configmaps \"one\" is invalid", "Edit cancelled, no valid changes were saved."]);
        let renamed = edit(&refused).failed().stderr;
        holds(&renamed, &["At least one of apiVersion, kind and name was changed"]);
        assert_eq!(kubectl.field("cm/one", ".data.a"), "edited");
    }
}

#[test]
fn deletion_cascades_and_waits_for_finalizers() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        for cascade in ["background", "orphan", "foreground"] {
            kubectl.apply(ONE);
            let uid = kubectl.field("cm/one", ".metadata.uid");
            kubectl.apply(&format!(
                "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: owned, ownerReferences: [{{apiVersion: v1, kind: \
                 ConfigMap, name: one, uid: {uid}, blockOwnerDeletion: true}}]}}}}"
            ));
            let deleted = kubectl.ok(&format!("delete cm one --cascade={cascade}"));
            assert!(deleted.starts_with("configmap \"one\" deleted"), "{deleted}");
            match cascade {
                "orphan" => {
                    assert_eq!(kubectl.names("cm"), ["configmap/owned"]);
                    assert_eq!(kubectl.field("cm/owned", ".metadata.ownerReferences"), "");
                    kubectl.ok("delete cm owned");
                }
                "foreground" => assert!(kubectl.names("cm").is_empty(), "what is owned goes first"),
                _ => wait_until("what is owned is gone", || kubectl.names("cm").is_empty().then_some(())),
            }
        }

        kubectl.apply(&ONE.replace("name: one", "name: one, finalizers: [example.com/hold]"));
        kubectl.ok("delete cm one --wait=false");
        assert!(!kubectl.field("cm/one", ".metadata.deletionTimestamp").is_empty());
        let pending = kubectl.fails("delete cm one --timeout=200ms");
        holds(&pending, &["timed out waiting for the condition"]);
        let mut waiting = kubectl.start("delete cm one");
        assert!(waiting.line().starts_with("configmap \"one\" deleted"));
        kubectl.run_with("patch cm one --type=merge -p", r#"{"metadata":{"finalizers":null}}"#).succeeded();
        wait_until("the object is gone", || kubectl.names("cm").is_empty().then_some(()));

        for name in ["a", "b", "c"] {
            kubectl.apply(
                &ONE.replace("name: one", &format!("name: {name}"))
                    .replace("app: a", &format!("app: {name}")),
            );
        }
        kubectl.run_with("delete cm -l", "app in (a, b)").succeeded();
        assert_eq!(kubectl.names("cm"), ["configmap/c"]);
        kubectl.ok("delete cm --all");
        assert!(kubectl.names("cm").is_empty());
        holds(
            &kubectl.fails("delete cm none"),
            &["Error from server (NotFound): configmaps \"none\" not found"],
        );
        assert_eq!(kubectl.ok("delete cm none --ignore-not-found"), "");

        // A namespace takes everything in it along, and `delete` waits for that.
        kubectl.apply(DEPLOYMENT);
        holds(&kubectl.ok(&format!("delete ns {}", kubectl.namespace)), &["deleted"]);
        holds(&kubectl.fails(&format!("get ns {}", kubectl.namespace)), &["NotFound"]);
        assert!(kubectl.names("deploy").is_empty());
    }
}

#[test]
fn kustomizations_pruning_and_strict_validation() {
    let world = World::new();
    let _server = Server::start(&world);
    world.file("kustomize/one.yaml", format!("---\n{ONE}\n"));
    world.file(
        "kustomize/kustomization.yaml",
        "resources: [one.yaml]\nnamePrefix: my-\nconfigMapGenerator: [{name: made, literals: [a=b]}]\n",
    );
    let strange =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: strange, bogus: 1}, daat: {a: b}, data: {a: b}}";
    for kubectl in each(&world) {
        let made = kubectl.ok("apply -k kustomize");
        holds(&made, &["configmap/my-made-", "configmap/my-one created"]);
        assert_eq!(kubectl.ok("apply -k kustomize").matches(" unchanged").count(), 2);
        kubectl.ok("delete -k kustomize");
        assert!(kubectl.names("cm").is_empty());

        let list = if kubectl.old { "--prune-whitelist" } else { "--prune-allowlist" };
        let prune = format!("apply --prune -l app=a {list}=core/v1/ConfigMap -f -");
        kubectl.feed(&prune, ONE).succeeded();
        let pruned = kubectl.feed(&prune, &ONE.replace("name: one", "name: two")).succeeded().stdout;
        holds(&pruned, &["configmap/two created", "configmap/one pruned"]);
        assert_eq!(kubectl.names("cm"), ["configmap/two"]);

        let refused = kubectl.feed("create -f -", strange).failed().stderr;
        if kubectl.old {
            holds(&refused, &["unknown field \"daat\" in io.k8s.api.core.v1.ConfigMap"]);
        } else {
            holds(
                &refused,
                &[
                    "Error from server (BadRequest): error when creating \"STDIN\": ConfigMap in version \"v1\" cannot be \
                     handled as a ConfigMap: strict decoding error: unknown field \"daat\", unknown field \
                     \"metadata.bogus\"",
                ],
            );
            let warned = kubectl.feed("create --validate=warn -f -", strange).succeeded().stderr;
            assert_eq!(
                warned,
                "Warning: unknown field \"daat\"\nWarning: unknown field \"metadata.bogus\"\n"
            );
            kubectl.ok("delete cm strange");
        }
        kubectl.feed("create --validate=false -f -", strange).succeeded();
        assert_eq!(kubectl.field("cm/strange", ".data"), r#"{"a":"b"}"#);
        assert_eq!(kubectl.field("cm/strange", ".daat"), "");
    }
}

#[test]
fn objects_are_made_by_their_own_commands() {
    let world = World::new();
    let _server = Server::start(&world);
    for kubectl in each(&world) {
        for (command, said) in [
            ("create configmap made --from-literal=a=b", "configmap/made created"),
            ("create secret generic made --from-literal=a=b", "secret/made created"),
            ("create serviceaccount made", "serviceaccount/made created"),
            ("create deployment made --image=busybox", "deployment.apps/made created"),
            ("create role made --verb=get --resource=pods", "role.rbac.authorization.k8s.io/made created"),
            (
                "create rolebinding made --role=made --user=joe",
                "rolebinding.rbac.authorization.k8s.io/made created",
            ),
            ("create quota made --hard=cpu=1", "resourcequota/made created"),
            ("create job made --image=busybox", "job.batch/made created"),
            ("create service clusterip made --tcp=80:80", "service/made created"),
            ("run made --image=busybox --restart=Never", "pod/made created"),
        ] {
            assert_eq!(kubectl.ok(command).trim_end(), said, "{command}");
        }
        assert_eq!(kubectl.ok("auth can-i get pods --as=joe"), "yes\n");
        assert_eq!(kubectl.run("auth can-i delete pods --as=joe").failed().stdout.trim_end(), "no");
        assert_eq!(kubectl.field("secret/made", ".data.a"), "Yg==");
        assert_eq!(kubectl.field("deploy/made", ".spec.template.spec.containers[0].image"), "busybox");
        assert_eq!(kubectl.field("pod/made", ".status.phase"), "Pending");
        assert_eq!(kubectl.field("resourcequota/made", ".spec.hard.cpu"), "1");
        let again = kubectl.fails("create configmap made");
        holds(&again, &["configmaps \"made\" already exists"]);
        if !kubectl.old {
            // The old one would make it in a version that Kubernetes has dropped.
            kubectl.ok("create poddisruptionbudget made --selector=a=b --min-available=1");
            kubectl.ok("delete pdb made");
            assert_eq!(
                kubectl.ok("create token made").matches('.').count(),
                2,
                "a JSON web token has three parts"
            );
        }
        kubectl.ok("delete pod made --now");
        kubectl.ok("delete deploy,role,rolebinding,quota,job,svc,sa,secret,cm made");
    }
}
